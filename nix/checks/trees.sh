#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# trees.sh: which trees the tests of the Nix files need, which of them are there, and how to get the others. It
# fetches nothing. Reads NIXPKGS, NIX_DARWIN, NIX_DARWIN_LIB and INPUTS, as eval/run.sh does, and trees.txt.
# Exits 1 if a tree is missing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
missing=0
there() { printf 'ok       %-28s %s\n' "$1" "$2"; }
lacks() { printf 'missing  %-28s %s\n' "$1" "$2"; missing=$((missing + 1)); }

# state FOLDER COMMIT: whether the folder is at the commit, as far as it says.
state() {
  local at
  if ! at=$(git -C "$1" rev-parse --show-toplevel 2>/dev/null) || [ "$at" != "$(realpath "$1")" ]; then
    echo "$1 (no checkout: its commit is unknown; the tests were last run with ${2:0:12})"
  elif at=$(git -C "$1" rev-parse HEAD) && [ "$at" = "$2" ]; then
    echo "$1 at ${2:0:12}"
  else
    echo "$1 at ${at:0:12}; the tests were last run with ${2:0:12}"
  fi
}

release=$(cat "${NIXPKGS:-/nonexistent}/lib/.version" "${NIXPKGS:-/nonexistent}/.version" 2>/dev/null | head -n 1 || true)
if [ -d "${NIXPKGS:-}/nixos/modules" ] && [ -n "$release" ]; then
  there NIXPKGS "$NIXPKGS, NixOS $release"
else
  lacks NIXPKGS "git clone --depth 1 --branch nixos-26.05 https://github.com/NixOS/nixpkgs"
fi

while read -r variable name repository commit; do
  [[ $variable == [A-Z]* ]] || continue
  label=$variable folder=${!variable:-}
  if [ "$name" != . ]; then
    label=$variable/$name folder=${folder:+$folder/$name}
  fi
  if [ -n "$folder" ] && [ -d "$folder" ] && [ -n "$(ls -A "$folder")" ]; then
    there "$label" "$(state "$folder" "$commit")"
  else
    directory=${repository##*/}
    lacks "$label" "git clone https://github.com/$repository && git -C $directory checkout ${commit:0:12}"
  fi
done <"$here/trees.txt"

if [ "$missing" -gt 0 ]; then
  echo "$missing missing: clone them, outside this repository, and name them: make eval NIXPKGS=FOLDER NIX_DARWIN=FOLDER NIX_DARWIN_LIB=FOLDER INPUTS=FOLDER"
  echo "INPUTS is one folder that holds the others, each under the name after the slash."
  exit 1
fi
