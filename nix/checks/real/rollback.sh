#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# rollback.sh: the script of the impermanence scope's stage 1, on a btrfs in a file. Needs root, a
# kernel with btrfs and loop devices, and btrfs-progs.
set -uo pipefail
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
needs mkfs.btrfs btrfs losetup
[ "$(id -u)" = 0 ] || skip "not root"
[ ! -e /run/nixfleet-rollback ] || skip "/run/nixfleet-rollback is there already"

top=$work/top device=
cleanup() {
  mountpoint -q "$top" && umount "$top"
  mountpoint -q /run/nixfleet-rollback && umount /run/nixfleet-rollback
  [ -z "$device" ] || losetup -d "$device"
  rmdir /run/nixfleet-rollback 2>/dev/null
  rm -rf "$work"
}
trap cleanup EXIT

truncate -s 512M "$work/disk"
mkfs.btrfs -q -L nixfleet-test "$work/disk" >/dev/null 2>&1 || skip "mkfs.btrfs does not work here"
device=$(losetup --find --show "$work/disk") || skip "no loop devices here"
mkdir "$top"
mount -t btrfs -o subvolid=5 "$device" "$top" 2>/dev/null || skip "the kernel has no btrfs"

text rollback >"$work/rollback"
# Only the programs that stage 1 has: the script cannot call others here.
mkdir "$work/bin"
for program in bash mount umount btrfs mkdir mv date; do ln -s "$(command -v "$program")" "$work/bin/$program"; done
# rollback DEVICE [KEEP]: one boot
rollback() {
  env -i PATH="$work/bin" ROLLBACK_DEVICE="$1" ROLLBACK_SUBVOLUME=/root ROLLBACK_KEEP="${2:-2}" bash "$work/rollback" >"$work/output" 2>&1
}
old_roots() { find "$top/old-roots" -mindepth 1 -maxdepth 1 2>/dev/null | wc -l; }

btrfs -q subvolume create "$top/root"
btrfs -q subvolume create "$top/persist"
echo kept >"$top/persist/file"
echo state >"$top/root/state"
# What a container or a snapshot leaves behind: subvolumes in the root, one with spaces in its name.
mkdir -p "$top/root/var/lib"
btrfs -q subvolume create "$top/root/var/lib/machines"
btrfs -q subvolume create "$top/root/var/lib/machines/a name path here"

check "the first boot replaces the root" rollback "$device"
check "the root is an empty subvolume" test -d "$top/root" -a -z "$(ls -A "$top/root")"
check "the root is a subvolume" btrfs subvolume show "$top/root"
same "the old root is kept, with all that was in it" "$(cat "$top"/old-roots/*/state)" state
same "what is kept stays as it is" "$(cat "$top/persist/file")" kept
check "nothing stays mounted" bash -c '! mountpoint -q /run/nixfleet-rollback'

echo second >"$top/root/state"
check "a boot within the same second has its own name" rollback "$device"
same "both old roots are there" "$(old_roots)" 2
rollback "$device"
rollback "$device"
same "of many boots, as many old roots stay as asked for" "$(old_roots)" 2
check "old roots are deleted with the subvolumes in them" bash -c "! btrfs subvolume list '$top' | grep -q machines"

# Power fails after the root was moved and before the new one was created.
mv "$top/root" "$top/old-roots/00000000T000000Z"
check "a missing root is created" rollback "$device" 9
check "it exists" btrfs subvolume show "$top/root"
rollback "$device" 0
same "no old root is kept when none is asked for" "$(old_roots)" 0

echo precious >"$top/root/state"
check "a missing label is not an error" rollback /dev/disk/by-label/nixfleet-no-such-label
check "and says so" grep -q "does not exist; the root file system does not change" "$work/output"
same "and leaves the root alone" "$(cat "$top/root/state")" precious

truncate -s 64M "$work/other"
mkfs.ext4 -q "$work/other"
other=$(losetup --find --show "$work/other")
check "another kind of file system is an error" bash -c "! env -i PATH='$work/bin' ROLLBACK_DEVICE='$other' ROLLBACK_SUBVOLUME=root ROLLBACK_KEEP=2 bash '$work/rollback'"
losetup -d "$other"
same "and the root of ours is still there" "$(cat "$top/root/state")" precious

finish
