# SPDX-License-Identifier: MIT
# boot.sh DIR NAME [BIND...]: PID 1 of a host's new namespaces: lays out the root, then becomes the init of the host's default
# system (/boot/default) or, before its first one, systemd.
set -euo pipefail
umask 022
dir=$1 name=$2
shift 2
d=$dir/hosts/$name r=$dir/hosts/$name/root

mount -t overlay overlay -o "index=off,lowerdir=/,upperdir=$d/up,workdir=$d/work" "$r"
mkdir -p "$r"/{nix,run,tmp,boot,oldroot}

# Kernel interfaces. The kernel's settings are the machine's, so they cannot be written.
mount -t proc proc "$r/proc"
mount --bind "$r/proc/sys" "$r/proc/sys"
mount -o remount,bind,ro "$r/proc/sys"
mount --bind /dev/null "$r/proc/sysrq-trigger" 2> /dev/null || true
mount -t sysfs -o ro,nosuid,noexec,nodev sysfs "$r/sys"
mount -t cgroup2 cgroup2 "$r/sys/fs/cgroup"

mount -t tmpfs -o mode=755 dev "$r/dev"
mkdir "$r"/dev/{pts,shm,mqueue}
mount -t devpts -o newinstance,mode=620,ptmxmode=666,gid=5 devpts "$r/dev/pts"
ln -s pts/ptmx "$r/dev/ptmx"
mount -t tmpfs -o mode=1777 shm "$r/dev/shm"
for n in null zero full random urandom tty; do
  touch "$r/dev/$n"
  mount --bind "/dev/$n" "$r/dev/$n"
done
ln -s /proc/self/fd "$r/dev/fd"
for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%%:*}" "$r/dev/${n##*:}"; done

mount -t tmpfs -o mode=755 run "$r/run"
mount -t tmpfs -o mode=1777 tmp "$r/tmp"
mkdir -p "$r"/run/{systemd/system,lock,no-units}

# As on NixOS, only Nix writes to the store.
mount --bind "$d/nix" "$r/nix"
mount --bind "$r/nix/store" "$r/nix/store"
mount -o remount,bind,ro "$r/nix/store"

for p; do
  mkdir -p "$r$p"
  mount --bind "$p" "$r$p"
done

# Unit files come from the closure or from /run, never from /etc; before the first closure there are none.
mount -t tmpfs -o ro,mode=755,size=4k no-units "$r/run/no-units"
hostname "$name"
touch "$r/etc/hosts"
mount --bind "$dir/hosts.txt" "$r/etc/hosts"

# A new boot id at each boot.
cat /proc/sys/kernel/random/uuid > "$r/run/boot-id"
mount --bind "$r/run/boot-id" "$r/proc/sys/kernel/random/boot_id"

# Units that are useless in a namespace, and would slow the boot or change the machine.
for u in systemd-{sysctl,modules-load,udevd,udev-trigger,random-seed,binfmt,timesyncd,firstboot,remount-fs,pstore,repart,update-utmp,sysusers}.service \
  kmod-static-nodes.service systemd-journald-audit.socket sys-kernel-{debug,tracing,config}.mount sys-fs-fuse-connections.mount \
  dev-hugepages.mount proc-sys-fs-binfmt_misc.automount getty.target systemd-ask-password-{wall,console}.path systemd-initctl.socket; do
  ln -s /dev/null "$r/run/systemd/system/$u"
done

cd "$r"
pivot_root . oldroot
cd /
umount -l /oldroot
rmdir /oldroot 2> /dev/null || true
echo ready >&3
exec 3>&-

init=/lib/systemd/systemd
if [ -s /boot/default ]; then init=$(cat /boot/default)/init; fi
for v in $(compgen -e); do unset "$v"; done
export container=nixfleet-testbed PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec "$init" --log-target=journal --show-status=0 --unit=multi-user.target < /dev/null
