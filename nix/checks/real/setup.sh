# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Sourced by the scripts of this folder: what they need, the generated texts, and the results.
# A script first says what there must be (`has`, `needs`); if something is missing, the script is skipped and says so.
real=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$real/../../.." && pwd)
name=$(basename "$0" .sh)
passed=0 failed=0

# skip WHY: end here, without a result.
skip() {
  echo "SKIP: $name did not run: $1" >&2
  echo "ok 1 - $name # SKIP $1"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
}

# has PROGRAM...: skip unless all are installed.
has() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || skip "no $program here"
  done
  # shellcheck disable=SC2034 # each script uses and removes it
  work=$(mktemp -d)
}

# needs PROGRAM...: skip unless all are installed, and NIXPKGS names a tree.
needs() {
  [ -n "${NIXPKGS:-}" ] || skip "NIXPKGS names no Nixpkgs"
  has "$@"
  arguments=$("$root/nix/checks/eval/harness/arguments.sh") || exit 2
}

# text ATTRIBUTE: a text of texts.nix. If it does not evaluate, the script ends, also from a pipe.
text() {
  local json
  json=$(NIX_REMOTE=dummy:// nix-instantiate --eval --strict --json \
    -E "(import $real/texts.nix { root = $root; harness = { $arguments }; }).$1") ||
    { echo "not ok - $name: the text $1 evaluates" >&2; kill $$; exit 2; }
  json=${json#\"} json=${json%\"}
  printf '%b' "${json//\\\"/\"}"
}

ok() { passed=$((passed + 1)); echo "ok - $name: $1"; }
not_ok() { failed=$((failed + 1)); echo "not ok - $name: $1"; [ -z "${2:-}" ] || echo "# ${2//$'\n'/$'\n# '}"; }

# check WHAT COMMAND...: whether the command succeeds.
check() {
  local what=$1 output
  shift
  if output=$("$@" 2>&1); then ok "$what"; else not_ok "$what" "$output"; fi
}

# same WHAT GOT WANT
same() { if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "got $2, want $3"; fi; }

finish() {
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ]
}
