# SPDX-License-Identifier: MIT
# create.sh DISK NAME [SYSTEM]: makes the disk of a host; with SYSTEM, one on which that system is installed. Run in a
# mount namespace of its own, with the host's nix.conf in NIX_CONFIG.
set -euo pipefail
umask 022
disk=$1 name=$2 system=${3:-} r=$1/root
mkdir -p "$disk"/{nix/store,nix/var/nix/profiles,up,work,root}
if chgrp nixbld "$disk/nix/store" 2> /dev/null; then chmod 1775 "$disk/nix/store"; fi

# Nothing of the machine's own services, identity and state. Unit files never come from /etc.
mount -t overlay overlay -o "index=off,lowerdir=/,upperdir=$disk/up,workdir=$disk/work" "$r"
rm -rf "$r"/etc/{systemd/system,machine-id,os-release,resolv.conf,static,nixfleet} "$r"/var/{log/journal,lib/nixfleet} "$r/boot/default"
mkdir -p "$r"/etc/{nix,systemd,nixfleet} "$r"/var/{log/journal,lib/nixfleet} "$r/boot"
ln -s /run/no-units "$r/etc/systemd/system"
tr -d - < /proc/sys/kernel/random/uuid > "$r/etc/machine-id"
echo "$name" > "$r/etc/hostname"
: > "$r/etc/fstab"
: > "$r/etc/resolv.conf"
: > "$r/etc/NIXOS"
printf 'ID=nixos\nNAME=NixOS\nPRETTY_NAME="NixOS (testbed)"\nVERSION_ID="24.11"\n' > "$r/etc/os-release"
printf '%s' "$NIX_CONFIG" > "$r/etc/nix/nix.conf"
[ -z "$system" ] || echo "$system" > "$r/boot/default"
umount "$r"

[ -n "$system" ] || exit 0
nix copy --no-check-sigs --to "local?root=$disk" "$system"
ln -s "$system" "$disk/nix/var/nix/profiles/system-1-link"
ln -s system-1-link "$disk/nix/var/nix/profiles/system"
