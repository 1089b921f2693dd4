#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# parse.sh: every .nix file of the repository parses and, if shellcheck is installed, it has no remarks on
# the scripts below nix/: with remarks, writeShellApplication would not build.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 2
export NIX_REMOTE=${NIX_REMOTE:-dummy://}

if ! command -v nix-instantiate >/dev/null; then
  echo "SKIP: the Nix files were not parsed: nix-instantiate is not installed" >&2
  echo "ok 1 - parse # SKIP nix-instantiate is not installed"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
fi

passed=0 failed=0
while IFS= read -r -d '' file; do
  if error=$(nix-instantiate --parse "$file" 2>&1 >/dev/null); then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "not ok - parse $file"
    while IFS= read -r line; do echo "# $line"; done <<<"$error"
  fi
done < <(find . -name '*.nix' -not -path './.git/*' -print0 | sort -z)
if command -v shellcheck >/dev/null; then
  while IFS= read -r -d '' file; do
    if remarks=$(shellcheck --shell=bash --external-sources --source-path=SCRIPTDIR --format=gcc "$file" 2>&1); then
      passed=$((passed + 1))
    else
      failed=$((failed + 1))
      echo "not ok - shellcheck $file"
      while IFS= read -r line; do echo "# $line"; done <<<"$remarks"
    fi
  done < <(find nix -name '*.sh' -print0 | sort -z)
else
  echo "ok - shellcheck # SKIP shellcheck is not installed"
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
