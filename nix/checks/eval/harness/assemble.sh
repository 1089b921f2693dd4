#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# assemble.sh TREE LIB [DIR...]: print the path of a stand-in for a Nixpkgs checkout: default.nix,
# flake.nix, the nixos/ of TREE, the lib/ of LIB, and one trivial derivation for each package
# name that these or the *.nix files below DIR mention. The result is cached by content, with
# hard links to TREE and LIB: do not change these in place.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree=$(realpath "$1") libfrom=$(realpath "$2")
shift 2
[ -d "$tree/nixos/modules" ] || { echo "assemble: no nixos/modules in $tree" >&2; exit 2; }
[ -f "$libfrom/lib/default.nix" ] || { echo "assemble: no lib/default.nix in $libfrom" >&2; exit 2; }

cache=${NIXFLEET_EVAL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/nixfleet-eval}
mkdir -p "$cache"
work=$(mktemp -d "$cache/.new.XXXXXX")
trap 'rm -rf "$work"' EXIT

"$here/package-names.pl" "$tree/nixos" "$@" >"$work/names.nix"
key=$({ echo "$tree $libfrom"; cat "$work/names.nix" "$here"/stand-in/*; } | sha256sum | cut -c1-16)
out=$cache/$key
if [ ! -e "$out/flake.nix" ]; then
  link() { cp -al "$1" "$2" 2>/dev/null || { rm -rf "$2"; cp -a "$1" "$2"; }; }
  link "$tree/nixos" "$work/nixos"
  link "$libfrom/lib" "$work/lib"
  mkdir "$work/stand-in"
  cp "$here"/stand-in/*.nix "$work/stand-in/"
  mv "$work/stand-in/flake.nix" "$work/flake.nix"
  mv "$work/stand-in/import.nix" "$work/default.nix"
  [ -e "$work/lib/.version" ] || printf '0.0' >"$work/lib/.version"
  # Current nix-darwin and home-manager import this from Nixpkgs, in addition to nixos/ and lib/.
  if [ ! -e "$work/modules/generic/meta-maintainers.nix" ]; then
    mkdir -p "$work/modules/generic"
    mv "$work/stand-in/meta-maintainers.nix" "$work/modules/generic/meta-maintainers.nix"
  fi
  mv -T "$work" "$out" 2>/dev/null || [ -e "$out/flake.nix" ]
fi
touch "$out"
find "$cache" -mindepth 1 -maxdepth 1 -mmin +1440 -exec rm -rf {} +
echo "$out"
