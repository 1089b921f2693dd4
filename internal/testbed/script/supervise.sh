# SPDX-License-Identifier: MIT
# supervise.sh DIR ID NAME ADDRESS/BITS LINK CABLE [BIND...]: a host's power: boots it, again at each reboot, and ends
# when it is off. Run in the keeper's namespaces with a network of its own. File descriptor 3 gets "ready" (from
# boot.sh) and "ended CODE" for each boot.
set -euo pipefail
umask 022
trap '' HUP INT
dir=$1 id=$2 name=$3 address=$4 link=$5 cable=$6
shift 6
cg=$dir/cg/$id/$name

nsenter -t 1 -n -- ip link del "$link" 2> /dev/null || true
nsenter -t 1 -n -- ip link add "$link" type veth peer name eth0 netns "$$"
nsenter -t 1 -n -- ip link set "$link" master br0
nsenter -t 1 -n -- bash "$dir/script/cable.sh" "$link" "$cable"

while :; do
  # The network settings of the system that ran before ended with it.
  ip link set lo up
  ip addr replace "$address" dev eth0
  ip link set eth0 up
  mkdir -p "$cg"
  (
    echo "$BASHPID" > "$cg/cgroup.procs"
    exec unshare --mount --uts --ipc --cgroup --pid --fork --kill-child --propagation private \
      bash "$dir/script/boot.sh" "$dir" "$name" "$@"
  ) &
  code=0
  wait $! || code=$?
  for _ in $(seq 100); do
    find "$cg" -depth -type d -exec rmdir {} + 2> /dev/null && break
    sleep 0.02
  done
  echo "ended $code" >&3
  [ "$code" = 129 ] || exit 0 # SIGHUP: how the kernel reports a reboot
done
