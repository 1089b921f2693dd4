#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# flake.sh: `nix flake check` of the flake without building, each template as a user's flake with this one as
# its input, and the first steps of docs/guide as they are written there, as far as they need no machine.
# Uses NIXPKGS and INPUTS, as in eval/run.sh, ./bin/nixfleet, and nothing from the network.
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

key='ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDKmo2gJZQ4yyNXm9rSm2z7Pj7hRZWkRUh1oG0Jt5xSt operator'
# edit FOLDER: put a key in place of the placeholders, as a user does.
edit() { grep -rlF REPLACE-WITH-YOUR-SSH-PUBLIC-KEY "$1" | xargs sed -i "s#REPLACE-WITH-YOUR-SSH-PUBLIC-KEY#$key#"; }
# user FLAKE#ATTRIBUTE [ARGUMENT...]: evaluate an attribute of a user's flake.
user() {
  flake eval "$@" --override-input nixfleet "path:$work/nixfleet" --override-input disko "path:$(realpath "$INPUTS")/disko"
}

# template FOLDER HOST: copy, edit and evaluate it as its user would.
template() {
  local directory=$work/${1##*/}
  cp -r "$root/nix/$1" "$directory"
  edit "$directory"
  check "template ${1##*/}" user "path:$directory#nixosConfigurations.$2.config.system.build.toplevel.drvPath"
}

# block PAGE N: the Nth block of code of a page of the guide, with this flake in place of the published one.
block() {
  awk -v n="$2" '/^ *```/ { inside = !inside; count += inside; next } inside && count == n' "$root/docs/guide/$1" |
    sed "s#github:arcanesys/nixfleet#path:$work/published#"
}
# follow PAGE N: run that block in $work/PAGE, where the block before ended.
follow() {
  local code
  code=$(block "$1" "$2") && [ -n "$code" ] || return
  mkdir -p "$work/$1"
  (cd "$work/$1" && { [ ! -d myfleet ] || cd myfleet; } && PATH="$work/bin:$PATH" bash -euo pipefail -c "$code")
}
# nix for the guide's commands, and this flake as it is published, but with a Nixpkgs that is here: nix flake init
# takes no --override-input.
mkdir "$work/bin"
printf '#!/usr/bin/env bash\nexec %q --extra-experimental-features "nix-command flakes" --offline "$@"\n' "$(command -v nix)" >"$work/bin/nix"
chmod +x "$work/bin/nix"
cp -r "$work/nixfleet" "$work/published"
rm -rf "$work/published/.git"
sed -i "s#github:NixOS/nixpkgs/nixos-unstable#path:$nixpkgs#" "$work/published/flake.nix"

# expect WANT FLAKE#HOST EXPRESSION: what a function of the host's configuration returns.
expect() {
  local got
  got=$(user "$2" --json --apply "$3") || return
  [ "$got" = "$1" ] || { echo "wanted $1, got $got"; return 1; }
}
no_secrets() { ! git -C "$1" ls-files | grep -E '[.]sec$|^extra/'; }
guide() {
  local fleet=git+file://$work/fleet.md/myfleet#nixosConfigurations
  check "guide, first machine: copy the template" follow first-machine.md 1
  edit "$work/first-machine.md/myfleet"
  git -C "$work/first-machine.md/myfleet" add -A
  check "guide, first machine: it can be installed" user \
    "git+file://$work/first-machine.md/myfleet#nixosConfigurations.myhost.config.system.build.toplevel.drvPath"

  check "guide, fleet: copy the template" follow fleet.md 1
  edit "$work/fleet.md/myfleet"
  if [ ! -x "$root/bin/nixfleet" ]; then
    echo "# SKIP the guide's fleet from its keys on: bin/nixfleet is not built"
    return
  fi
  ln -s "$root/bin/nixfleet" "$work/bin/nixfleet"
  check "guide, fleet: make its keys" follow fleet.md 2
  check "guide, fleet: no secret key is in the source" no_secrets "$work/fleet.md/myfleet"
  check "guide, fleet: with the keys there are a control plane, a cache and an agent" expect '[true,true,true]' "$fleet.cp-01.config" \
    "c: builtins.seq c.system.build.toplevel.drvPath (with c.services; map (s: s.enable) [ nixfleet-control-plane nixfleet-cache-server nixfleet-agent ])"
  echo "cp-01.example.org-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" >"$work/fleet.md/myfleet/cache.pub"
  git -C "$work/fleet.md/myfleet" add cache.pub
  check "guide, fleet: with the cache's key, machines fetch from it" expect '["http://cp-01.example.org:5000"]' "$fleet.web-01.config" \
    "c: builtins.seq c.system.build.toplevel.drvPath c.nix.settings.extra-substituters"
}

if [ -e "${INPUTS:-}/disko/flake.nix" ]; then
  template templates/standalone myhost
  template templates/batch node-01
  template templates/fleet cp-01
  template demo db-01
  guide
else
  echo "# SKIP the templates: INPUTS has no disko"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
