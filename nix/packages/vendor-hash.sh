#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vendor-hash.sh [--check]: write vendor-hash.nix, the hash that buildGoModule compares with the output
# of `go mod vendor` for the files of source-folders.nix. --check: only say whether the hash is right.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
file=$here/vendor-hash.nix

if ! command -v nix >/dev/null; then
  echo "SKIP: the vendor hash was not computed: nix is not installed" >&2
  echo "ok 1 - vendor-hash # SKIP nix is not installed"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"

# The source that Nix builds: the listed folders, as git knows them.
mapfile -t folders < <(sed -nE 's/^ *"(.*)"$/\1/p' "$here/source-folders.nix")
git ls-files -z --cached --others --exclude-standard -- "${folders[@]}" | while IFS= read -r -d '' path; do
  [ -e "$path" ] || continue
  mkdir -p "$work/source/$(dirname "$path")"
  cp -P "$path" "$work/source/$path"
done

# A package that is left out would be missing from the build.
outside=$(go list -f '{{.Dir}}' ./... | sed "s#^$root/*##" | cut -d/ -f1 | sort -u | grep -vxF -f <(printf '%s\n' "${folders[@]}") || true)
if [ -n "$outside" ]; then
  echo "vendor-hash: Go packages outside source-folders.nix: $outside" >&2
  exit 1
fi

(cd "$work/source" && go mod vendor)
if [ -d "$work/source/vendor" ]; then
  hash=\"$(nix --extra-experimental-features nix-command hash path "$work/source/vendor")\"
else
  hash=null # buildGoModule's word for no dependencies
fi

if [ "${1:-}" = --check ]; then
  if [ "$(tail -n 1 "$file")" = "$hash" ]; then
    echo "ok - vendor-hash.nix is $hash"
  else
    echo "not ok - vendor-hash.nix says $(tail -n 1 "$file"), go mod vendor gives $hash; run nix/packages/vendor-hash.sh" >&2
    exit 1
  fi
else
  sed -i '$d' "$file"
  echo "$hash" >>"$file"
  echo "vendor-hash.nix: $hash"
fi
