# SPDX-License-Identifier: MIT
# keeper.sh DIR ID ADDRESS/BITS: the first process of a testbed's own PID, mount and network namespaces.
# It makes the hub, then waits for its standard input to end, which happens when the program that owns the
# testbed closes it or dies in whatever way. Then everything in here ends and DIR is removed. When the keeper
# itself is killed, the kernel ends all processes of its PID namespace; mounts and networks go with them.
set -euo pipefail
trap '' HUP INT TERM
dir=$1 id=$2 address=$3

mount --make-rprivate /
mount -t proc proc /proc
mkdir "$dir"/{cg,hosts,probe}
mount -t cgroup2 cgroup2 "$dir/cg"
mkdir "$dir/cg/$id"

# Where the file system cannot carry an overlay (in a container) the hosts' disks are in memory.
mkdir "$dir"/probe/{up,work,root}
if mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/probe/up,workdir=$dir/probe/work" "$dir/probe/root" 2> /dev/null; then
  umount "$dir/probe/root"
  echo "disks: folder"
else
  mount -t tmpfs -o mode=755 disks "$dir/hosts"
  echo "disks: memory"
fi
rm -rf "$dir/probe"

ip link set lo up
ip link add br0 type bridge
ip addr add "$address" dev br0
ip link set br0 up
echo ready

while read -r _; do :; done
kill -KILL -1 2> /dev/null || true
source "$dir/script/sweep.sh" "$dir" "$id"
