#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# flake.sh: `nix flake check` of the flake without building, and each template as a user's flake with this
# one as its input. Uses NIXPKGS and INPUTS, as in eval/run.sh, and nothing from the network.
# Prints `N passed, N failed`.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if [ -z "${NIXPKGS:-}" ]; then
  echo "SKIP: the flake was not checked: NIXPKGS is not set" >&2
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
args=$("$here/eval/harness/arguments.sh") || exit 2
nixpkgs=$(sed -nE 's/.*\bnixpkgs = ([^;]+);.*/\1/p' <<<"$args")

# The files that git knows, as in a flake of the repository.
mkdir "$work/nixfleet"
(cd "$root" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work/nixfleet" 2>/dev/null)

flake() {
  nix --extra-experimental-features 'nix-command flakes' "$@" --offline --no-write-lock-file \
    --override-input nixpkgs "path:$nixpkgs"
}
passed=0 failed=0
check() {
  local name=$1 output
  shift
  if output=$("$@" 2>&1); then
    passed=$((passed + 1))
    echo "ok - $name"
  else
    failed=$((failed + 1))
    echo "not ok - $name"
    tail -n 15 <<<"$output" | sed 's/^/# /'
  fi
}

check "nix flake check" flake flake check --no-build "path:$work/nixfleet"
git -C "$work/nixfleet" init -q && git -C "$work/nixfleet" add -A
check "nix/scopes as a flake of its own" flake eval "git+file://$work/nixfleet?dir=nix/scopes#nixosModules" --apply builtins.attrNames

# template FOLDER HOST: initialise, edit and evaluate it as its user would.
template() {
  local directory=$work/${1##*/}
  cp -r "$root/nix/$1" "$directory"
  grep -rlF REPLACE-WITH-YOUR-SSH-PUBLIC-KEY "$directory" |
    xargs sed -i 's/REPLACE-WITH-YOUR-SSH-PUBLIC-KEY/ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDKmo2gJZQ4yyNXm9rSm2z7Pj7hRZWkRUh1oG0Jt5xSt operator/'
  check "template ${1##*/}" flake eval "path:$directory#nixosConfigurations.$2.config.system.build.toplevel.drvPath" \
    --override-input nixfleet "path:$work/nixfleet" --override-input disko "path:$(realpath "$INPUTS")/disko"
}
if [ -e "${INPUTS:-}/disko/flake.nix" ]; then
  template templates/standalone myhost
  template templates/batch node-01
  template templates/fleet cp-01
  template demo db-01
else
  echo "# SKIP the templates: INPUTS has no disko"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
