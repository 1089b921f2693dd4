#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# arguments.sh: print the arguments of harness/default.nix, from NIXPKGS, NIX_DARWIN,
# NIX_DARWIN_LIB and INPUTS (../run.sh explains them).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../../.." && pwd)

# The Nixpkgs to evaluate with: TREE itself, or a stand-in made of it and LIB.
resolve() {
  local tree=$1 lib=$2
  if [ "$tree" = "$lib" ] && [ -e "$tree/pkgs/top-level/default.nix" ]; then
    realpath "$tree"
  else
    "$here/assemble.sh" "$tree" "$lib" "$root/nix" ${INPUTS:+"$INPUTS"} ${NIX_DARWIN:+"$NIX_DARWIN"}
  fi
}

nixpkgs=$(resolve "${NIXPKGS:?}" "$NIXPKGS")
arguments="nixpkgs = $nixpkgs;"
if [ -n "${NIX_DARWIN:-}" ]; then
  darwin_nixpkgs=$(resolve "$NIXPKGS" "${NIX_DARWIN_LIB:-$NIXPKGS}")
  arguments+=" darwin = $(realpath "$NIX_DARWIN"); darwinNixpkgs = $darwin_nixpkgs;"
fi
[ -z "${INPUTS:-}" ] || arguments+=" inputs = $(realpath "$INPUTS");"
echo "$arguments"
