# SPDX-License-Identifier: MIT
# keeper.sh DIR ID ADDRESS/BITS memory|folder: the first process of a testbed's own PID, mount and network namespaces.
# It makes the hub, then waits for its standard input to end, which happens when the program that owns the
# testbed closes it or ends in any way. Then everything in here ends and DIR is removed. When the keeper itself
# is killed, the kernel kills all processes of its PID namespace, and mounts and networks end with them.
set -euo pipefail
umask 022
trap '' HUP INT TERM
dir=$1 id=$2 address=$3 disks=$4

mount --make-rprivate /
mount -t proc proc /proc
mkdir "$dir"/{cg,hosts}
mount -t cgroup2 cgroup2 "$dir/cg"
mkdir "$dir/cg/$id"

if [ "$disks" = folder ]; then
  # In a container the file system of the folder may not support an overlay.
  mkdir "$dir"/probe "$dir"/probe/{up,work,root}
  mount -t overlay overlay -o "index=off,lowerdir=/,upperdir=$dir/probe/up,workdir=$dir/probe/work" "$dir/probe/root"
  umount "$dir/probe/root"
  rm -rf "$dir/probe"
else
  mount -t tmpfs -o mode=755 disks "$dir/hosts"
fi

ip link set lo up
# The bridge gets a hardware address of its own. Otherwise it has the address of one of its ports, which changes with
# the hosts, and a host that knew the old one waits seconds before it asks again.
ip link add br0 address 02:00:00:00:00:01 type bridge
ip addr add "$address" dev br0
ip link set br0 up
echo ready

while read -r _; do :; done
kill -KILL -1 2> /dev/null || true
source "$dir/script/sweep.sh" "$dir" "$id"
