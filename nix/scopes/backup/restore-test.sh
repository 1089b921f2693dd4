#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Proves that the newest backup of a job can be read back: restores it to a directory that is
# thrown away, and fails if it holds no file.
#   BACKEND   restic or borgbackup, which finds its repository and password in the environment
#   HOST      host whose backups to look at
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
[ "$files" -gt 0 ] || { echo "the newest backup holds no file" >&2; exit 1; }
echo "restored $files files"
