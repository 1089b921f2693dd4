#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# units.sh: our units as NixOS writes them pass systemd-analyze verify, the control plane's exposure is
# below 2.0, and the programs in ./bin, if they are built, accept the configuration files.
# Needs NIXPKGS, as in eval/run.sh. Prints `N passed, N failed`.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
skip() { echo "SKIP: the units were not verified: $1" >&2; echo "0 passed, 0 failed, 1 skipped"; exit 0; }
[ -n "${NIXPKGS:-}" ] || skip "NIXPKGS names no Nixpkgs"
command -v systemd-analyze >/dev/null || skip "no systemd-analyze here"

export NIX_REMOTE=${NIX_REMOTE:-dummy://}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
args=$("$here/eval/harness/arguments.sh") || exit 2
texts="import $here/units.nix { root = $root; harness = { $args }; }"

# file NAME: the text NAME of units.nix. nix-instantiate prints JSON strings only.
file() {
  local json
  json=$(nix-instantiate --eval --strict --json -E "($texts).\"$1\"") || exit 2
  json=${json#\"} json=${json%\"}
  printf '%b' "${json//\\\"/\"}"
}

passed=0 failed=0
ok() { passed=$((passed + 1)); echo "ok - $1"; }
not_ok() { failed=$((failed + 1)); echo "not ok - $1${2:+: $2}"; }

units=(nixfleet-agent.service nixfleet-agent-restart.service nixfleet-watchdog.service nixfleet-watchdog.timer nixfleet-control-plane.service
  nixfleet-control-plane-backup.service nixfleet-control-plane-backup.timer)
for unit in "${units[@]}"; do
  # The programs are in a store that is not built here.
  file "$unit" | sed -E 's#^(Exec[A-Za-z]*=)/nix/store/[^ ]+#\1/usr/bin/true#' >"$work/$unit"
done
for unit in "${units[@]}"; do
  if error=$(SYSTEMD_UNIT_PATH="$work:" systemd-analyze verify --man=no --recursive-errors=no "$work/$unit" 2>&1) && [ -z "$error" ]; then
    ok "verify $unit"
  else
    not_ok "verify $unit" "$error"
  fi
done

# exposure UNIT LIMIT: systemd's own score, from 0 (confined) to 10.
exposure() {
  local score
  score=$(systemd-analyze security --offline=1 --no-pager "$work/$1" 2>/dev/null | sed -nE 's/.*Overall exposure level[^:]*: ([0-9.]+).*/\1/p')
  if [ -n "$score" ] && awk "BEGIN { exit !($score < $2) }"; then
    ok "exposure of $1 is $score, below $2"
  else
    not_ok "exposure of $1 is ${score:-unknown}, not below $2"
  fi
}
exposure nixfleet-control-plane.service 2.0
exposure nixfleet-control-plane-backup.service 2.0
exposure nixfleet-agent.service 6.0

for name in agent control-plane; do
  program=$root/bin/nixfleet-$name
  [ -x "$program" ] || { echo "# SKIP config check: $program is not built"; continue; }
  file "$name.toml" >"$work/$name.toml"
  if error=$("$program" config check "$work/$name.toml" 2>&1); then
    ok "nixfleet-$name accepts its file"
  else
    not_ok "nixfleet-$name accepts its file" "$error"
  fi
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
