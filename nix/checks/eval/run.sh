#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# run.sh [NAME...]: the evaluation tests of this folder (NAME: only NAME.nix), each file in a process of
# its own. Prints `ok n - eval FILE: TEST` lines and `N passed, N failed`; exits 1 on a failure.
#   NIXPKGS        a Nixpkgs, or a tree that has only its nixos/ and lib/; without it, all tests are skipped
#   NIX_DARWIN     a nix-darwin; NIX_DARWIN_LIB: a folder with the lib/ that it needs (default NIXPKGS)
#   INPUTS         a folder of more flakes: disko, home-manager, ... (harness/inputs.nix)
#   EVAL_JOBS      processes at a time (2); EVAL_TIMEOUT seconds (300) and EVAL_MEM_KB (8000000) for each
#   ONLY           only the test of this name; EVAL_TRACE=1 passes --show-trace
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)

if [ -z "${NIXPKGS:-}" ]; then
  echo "SKIP: the evaluation tests did not run: NIXPKGS is not set (make eval NIXPKGS=/path/to/nixpkgs)" >&2
  echo "ok 1 - eval # SKIP NIXPKGS is not set"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
fi

export NIX_REMOTE=${NIX_REMOTE:-dummy://} # evaluation needs no store
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

args=$("$here/harness/arguments.sh") || exit 2

# evaluate FILE ATTRIBUTE [TEST]: the attribute of entry.nix as plain text.
evaluate() {
  local only=${3:+only = \"$3\";} json
  ulimit -v "${EVAL_MEM_KB:-8000000}"
  json=$(timeout -s KILL "${EVAL_TIMEOUT:-300}" nix-instantiate --eval --strict --json ${EVAL_TRACE:+--show-trace} \
    -E "(import $here/entry.nix { file = $1; root = $root; harness = { $args }; $only }).$2") || return
  json=${json#\"} json=${json%\"}
  printf '%b\n' "${json//\\\"/\"}"
}

# check_errors FILE OUT: run the tests that expect an error, each in its own process, and compare messages.
check_errors() {
  local kind test text
  while IFS=$'\t' read -r kind test text; do
    if [ "$kind" != throws ]; then
      printf '%s\t%s\t%s\n' "$kind" "$test" "$text"
    elif (evaluate "$1" forced "$test") >/dev/null 2>"$2.message"; then
      printf 'not ok\t%s\n#\texpected the error: %s\n#\tgot none\n' "$test" "$text"
    elif grep -qF -- "$text" "$2.message"; then
      printf 'ok\t%s\n' "$test"
    else
      printf 'not ok\t%s\n#\texpected the error: %s\n' "$test" "$text"
      grep -m 1 '^error' "$2.message" | sed 's/^/#\tgot:                /'
    fi
  done <"$2" >"$2.checked"
  mv "$2.checked" "$2"
}

# If a file does not evaluate as a whole, its tests run one by one, so that one error hides no other.
run_file() {
  local file=$1 out=$2 test
  evaluate "$file" results "${ONLY:-}" >"$out" 2>"$out.err" && return
  if [ -z "${ONLY:-}" ] && evaluate "$file" names >"$out.names" 2>/dev/null; then
    : >"$out"
    while IFS= read -r test; do
      if ! (evaluate "$file" results "$test") >"$out.one" 2>"$out.err"; then
        printf 'not ok\t%s\n' "$test" >"$out.one"
        tail -n 15 "$out.err" | sed 's/^/#\t/' >>"$out.one"
      fi
      cat "$out.one" >>"$out"
    done <"$out.names"
  else
    { printf 'not ok\tevaluates\n'; tail -n "${EVAL_ERROR_LINES:-25}" "$out.err" | sed 's/^/#\t/'; } >"$out"
  fi
}

passed=0 failed=0 skipped=0 number=0
report() {
  local name=$1 out=$2 kind test why
  while IFS=$'\t' read -r kind test why; do
    case $kind in
      ok) number=$((number + 1)) passed=$((passed + 1)); echo "ok $number - eval $name: $test" ;;
      skip) number=$((number + 1)) skipped=$((skipped + 1)); echo "ok $number - eval $name: $test # SKIP $why" ;;
      'not ok') number=$((number + 1)) failed=$((failed + 1)); echo "not ok $number - eval $name: $test" ;;
      '#') echo "# $test${why:+ $why}" ;;
    esac
  done <"$out"
}

files=()
for file in "$here"/*.nix; do
  name=$(basename "$file" .nix)
  [ "$name" != entry ] || continue
  [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
  files+=("$file")
done
[ ${#files[@]} -gt 0 ] || { echo "run.sh: no test file named: $*" >&2; exit 2; }

# Results are printed in the order of the files, as soon as the files before are done.
next=0
flush() {
  while [ $next -lt ${#files[@]} ] && [ -e "$work/$next.done" ]; do
    report "$(basename "${files[$next]}" .nix)" "$work/$next"
    next=$((next + 1))
  done
}
for index in "${!files[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "${EVAL_JOBS:-2}" ]; do wait -n; done
  flush
  { run_file "${files[$index]}" "$work/$index"; check_errors "${files[$index]}" "$work/$index"; : >"$work/$index.done"; } &
done
wait
flush

[ "$skipped" -eq 0 ] || echo "$passed passed, $failed failed, $skipped skipped"
[ "$skipped" -ne 0 ] || echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
