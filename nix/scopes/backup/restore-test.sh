#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Proves that the newest backup of a job can be restored: restores it to a temporary directory, and
# fails if it contains no file.
#   BACKEND   restic or borgbackup; the program reads repository and password from the environment
#   HOST      host whose backups to use
#   ARCHIVES  borgbackup: pattern of the job's archives
#   $@        the job's paths
set -euo pipefail

if [ "$BACKEND" = borgbackup ]; then
  archive=$(borg list --last 1 --short --glob-archives "$ARCHIVES")
  [ -n "$archive" ] || { echo "no archive matches $ARCHIVES" >&2; exit 1; }
  target=$(mktemp -d)
  cd "$target"
  borg extract "::$archive"
else
  filter=()
  for path in "$@"; do filter+=(--path "$path"); done
  target=$(mktemp -d)
  restic restore latest --host "$HOST" "${filter[@]}" --target "$target" --verify
fi

files=$(find "$target" -type f | wc -l)
rm -rf "$target"
[ "$files" -gt 0 ] || { echo "the newest backup contains no file" >&2; exit 1; }
echo "restored $files files"
