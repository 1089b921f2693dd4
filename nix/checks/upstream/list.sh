#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# list.sh [REFERENCE]: write nixos-RELEASE.json, the names and types that the NixOS in NIXPKGS gives the options
# that our modules set (set.nix). eval/upstream.nix holds the modules against these lists. NIXPKGS and INPUTS are
# as in eval/run.sh. REFERENCE: another NixOS, with which the modules evaluate, to find out what they set; needed
# if NIXPKGS has renamed or removed one of those options.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
export NIX_REMOTE=${NIX_REMOTE:-dummy://}
[ -n "${NIXPKGS:-}" ] || { echo "list.sh: set NIXPKGS to a Nixpkgs, or a tree that has its nixos/ and lib/" >&2; exit 2; }

of() { NIXPKGS=$1 "$here/../eval/harness/arguments.sh"; }
evaluate() { nix-instantiate --eval --strict --json -E "$1"; }
reference=$(of "${1:-$NIXPKGS}")
tree=$(of "$NIXPKGS")
release=$(evaluate "(import $here/../eval/harness { $tree }).lib.trivial.release" | tr -d '"')

echo "list.sh: what the modules set" >&2
names=$(evaluate "let harness = import $here/../eval/harness { $reference }; in
  builtins.attrNames (import $here/set.nix { inherit harness; inherit (harness) lib; root = $root; })")
echo "list.sh: what NixOS $release says of it" >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '%s' "$names" >"$work/names"
evaluate "let harness = import $here/../eval/harness { $tree }; in
  import $here/lookup.nix { inherit harness; inherit (harness) lib; names = builtins.fromJSON (builtins.readFile $work/names); }" |
  sed -E 's/^\{"/{\n"/; s/\},"/},\n"/g; s/\}\}$/}\n}/' >"$work/list"
mv "$work/list" "$here/nixos-$release.json"
echo "nixos-$release.json: $(grep -c '^"' "$here/nixos-$release.json") options"
