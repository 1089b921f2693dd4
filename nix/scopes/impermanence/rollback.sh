#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Replaces the root subvolume with an empty one, in stage 1 before it is mounted. A few old roots are
# kept; older ones are deleted. If anything is not as expected, the root does not change.
#   ROLLBACK_DEVICE     block device of the btrfs file system
#   ROLLBACK_SUBVOLUME  the root's subvolume, as a path from the top of the file system
#   ROLLBACK_KEEP       how many old roots to keep
# Uses only what stage 1 has: bash, coreutils, mount, umount, btrfs.
set -eu

top=/run/nixfleet-rollback
root=$top/${ROLLBACK_SUBVOLUME#/}
old=$top/old-roots

if [ ! -e "$ROLLBACK_DEVICE" ]; then
  echo "nixfleet-rollback: $ROLLBACK_DEVICE does not exist; the root file system does not change" >&2
  exit 0
fi

# A subvolume can be deleted only after the subvolumes in it.
delete() {
  local line
  while IFS= read -r line; do
    [ -z "$line" ] || delete "$top/${line#* path }"
  done <<<"$(btrfs subvolume list -o "$1")"
  btrfs subvolume delete "$1" >/dev/null
}

mkdir -p "$top"
mount -t btrfs -o subvolid=5 "$ROLLBACK_DEVICE" "$top"
trap 'umount "$top"' EXIT

# Power may fail between any two steps: if the root is missing at the next boot, it is created then.
if [ -e "$root" ]; then
  mkdir -p "$old"
  stamp=$(date -u +%Y%m%dT%H%M%SZ)
  target=$old/$stamp
  number=1
  while [ -e "$target" ]; do
    target=$old/$stamp.$number
    number=$((number + 1))
  done
  mv "$root" "$target"
fi
btrfs subvolume create "$root" >/dev/null
echo "nixfleet-rollback: the root file system is empty again"

# By number, not by age: a wrong clock must not cause a deletion.
roots=("$old"/*)
for path in "${roots[@]}"; do
  if [ ! -e "$path" ] || [ "${#roots[@]}" -le "$ROLLBACK_KEEP" ]; then break; fi
  delete "$path" || echo "nixfleet-rollback: $path could not be deleted" >&2
  roots=("${roots[@]:1}")
done
