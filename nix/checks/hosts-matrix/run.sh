#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# run.sh [--update | --tables]: adds each scope and each role, alone, to each host of shapes/, and compares what
# changes with golden/. Progress is on stderr; the last line is JSON:
#   {"shapes":N,"cells":N,"failed":N,"bootLoaderKept":B,"loginKept":B}
#   NIXPKGS, NIX_DARWIN, NIX_DARWIN_LIB, INPUTS, EVAL_JOBS, EVAL_TIMEOUT, EVAL_MEM_KB   as in ../eval/run.sh
#   SHAPES, CELLS  only these, by name
#   --update       writes golden/, and needs all of them
#   --tables       looks only at golden/, which needs no Nixpkgs: for make test
# Exits 1 on a failure.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
update=${1:-}

if [ "$update" = --tables ]; then
  echo "ok - hosts-matrix # SKIP it takes ten minutes and a Nixpkgs: make hosts-matrix NIXPKGS=TREE"
  exec "$here/table.pl" check "$here/golden" "$here/shapes" "$root/nix"
fi
if [ -z "${NIXPKGS:-}" ]; then
  echo "SKIP: the matrix of hosts did not run: NIXPKGS is not set (make hosts-matrix NIXPKGS=/path/to/nixpkgs)" >&2
  exit 0
fi
export NIX_REMOTE=${NIX_REMOTE:-dummy://} # evaluation needs no store
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
args=$("$root/nix/checks/eval/harness/arguments.sh") || exit 2

# evaluate OUT EXPRESSION: an attribute of entry.nix as JSON.
evaluate() {
  ulimit -v "${EVAL_MEM_KB:-8000000}"
  timeout -s KILL "${EVAL_TIMEOUT:-300}" nix-instantiate --eval --strict --json \
    -E "(import $here/entry.nix { root = $root; harness = { $args }; }).$2" >"$1" 2>"$1.err"
}

# row SHAPE CELL...: the cells of a shape. If one throws an error, each runs by itself, to tell which.
row() {
  local shape=$1 out quoted cell
  shift
  out=$work/$shape.$1
  quoted=$(printf '"%s" ' "$@")
  if (evaluate "$out.json" "run \"$shape\" [ $quoted ]"); then
    echo "$shape: $*" >&2
  elif [ $# -gt 1 ]; then
    rm -f "$out.json"
    for cell in "$@"; do row "$shape" "$cell"; done
  else
    "$here/table.pl" error "$shape" "$1" "$out.json.err" >"$out.json"
    echo "$shape: $1: error" >&2
  fi
}

(evaluate "$work/shapes" shapes) || { tail -n 20 "$work/shapes.err" >&2; exit 2; }
"$here/table.pl" rows "$work/shapes" >"$work/rows" || exit 2
while read -r shape cells; do
  while [ "$(jobs -rp | wc -l)" -ge "${EVAL_JOBS:-2}" ]; do wait -n; done
  # shellcheck disable=SC2086 # a word for each cell
  row $shape $cells &
done <"$work/rows"
wait

mkdir -p "$work/results"
mv "$work"/*.json "$work/results/" 2>/dev/null
"$here/table.pl" compare "$here/golden" "$work/results" ${update:+"$update"}
