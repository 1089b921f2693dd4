#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# generate.sh [--check]: write docs/reference/options from the options of the modules, or with --check
# compare the pages with the options. Needs NIXPKGS and NIX_DARWIN, as in checks/eval/run.sh.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
target=$root/docs/reference/options
check='' done=written
[ "${1:-}" != --check ] || { check=1 done=compared; }

for variable in NIXPKGS NIX_DARWIN; do
  if [ -z "${!variable:-}" ]; then
    echo "SKIP: the reference of options was not $done: $variable is not set" >&2
    echo "ok 1 - reference of options # SKIP $variable is not set"
    exit 0
  fi
done

export NIX_REMOTE=${NIX_REMOTE:-dummy://}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
args=$("$root/nix/checks/eval/harness/arguments.sh")

nix --extra-experimental-features nix-command eval --raw --impure \
  --expr "import $here/options.nix { root = $root; harness = { $args }; }" >"$work/all"

mkdir "$work/pages"
awk -v folder="$work/pages" '
  /^<!-- page: / { if (file) close(file); file = folder "/" $3; next }
  { print > file }
' "$work/all"

# A default that comes from the machine that made the page.
if grep -rn -e /nix/store/ -e "$root" "$work/pages" >&2; then
  echo "not ok 1 - reference of options: give the options above a defaultText"
  exit 1
fi

if [ -z "$check" ]; then
  rm -rf "$target"
  mkdir -p "$target"
  cp "$work"/pages/* "$target/"
  echo "ok 1 - reference of options: $(find "$target" -type f | wc -l) pages written"
elif diff -ru "$target" "$work/pages" >"$work/diff"; then
  echo "ok 1 - reference of options matches the modules"
else
  head -n 60 "$work/diff" >&2
  echo "not ok 1 - reference of options differs from the modules: run nix/docs/generate.sh"
  exit 1
fi
