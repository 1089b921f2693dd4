# SPDX-License-Identifier: MIT
# sweep.sh DIR ID: ends what is left of a testbed and removes it. Run in a mount namespace of its own, by the
# keeper at its end, or by a later testbed that finds DIR without a keeper.
set -uo pipefail
dir=$1 id=$2
mountpoint -q "$dir/cg" || { mkdir -p "$dir/cg" && mount -t cgroup2 cgroup2 "$dir/cg"; }
if [ -d "$dir/cg/$id" ]; then
  echo 1 > "$dir/cg/$id/cgroup.kill"
  for _ in $(seq 500); do
    find "$dir/cg/$id" -depth -type d -exec rmdir {} + 2> /dev/null && break
    sleep 0.02
  done
fi
umount "$dir/cg" && rmdir "$dir/cg"
! mountpoint -q "$dir/hosts" || umount -l "$dir/hosts"
rm -rf --one-file-system "$dir"
