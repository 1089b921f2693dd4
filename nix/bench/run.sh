#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# run.sh: the cost of evaluating a host, compared with a plain nixosSystem on the same hardware, and whether
# every exported module evaluates. Needs NIXPKGS, as in ../checks/eval/run.sh. The last line is JSON:
#   {"mkHostCpuRatio":N,"mkHostMemRatio":N,"serverCpuRatio":N,"modules":{NAME:{"evaluates":B,"failedAssertions":N}}}
#   BENCH_RUNS     measurements of each host; the fastest counts (5)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if [ -z "${NIXPKGS:-}" ]; then
  echo "SKIP: nothing was measured: NIXPKGS is not set (make bench-nix NIXPKGS=/path/to/nixpkgs)" >&2
  exit 0
fi

export NIX_REMOTE=${NIX_REMOTE:-dummy://}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
args=$("$root/nix/checks/eval/harness/arguments.sh")
call() { echo "(import $here/$1 { root = $root; harness = { $args }; })"; }

# measure HOST: CPU seconds and bytes allocated by one evaluation to the toplevel.
measure() {
  NIX_SHOW_STATS=1 NIX_SHOW_STATS_PATH=$work/stats nix-instantiate --eval -E "$(call hosts.nix).$1" >/dev/null
  sed -nE 's/^ *"cpuTime": ([0-9.e+-]+),?$/\1/p' "$work/stats" | tail -n 1
  sed -nE 's/.*"totalBytes": ([0-9]+).*/\1/p' "$work/stats" | tail -n 1
}

hosts=(plain mkHost server)
declare -A cpu mem
for run in $(seq "${BENCH_RUNS:-5}"); do
  for host in "${hosts[@]}"; do # in turn, so that a slow minute slows all
    measured=$(measure "$host")
    mapfile -t values <<<"$measured"
    cpu[$host]=$(awk -v a="${cpu[$host]:-}" -v b="${values[0]}" 'BEGIN { print (a == "" || b < a) ? b : a }')
    mem[$host]=${values[1]}
    echo "run $run $host: ${values[0]} s CPU, $((values[1] / 1000000)) MB allocated"
  done
done
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'; }

modules=
names=$(nix-instantiate --eval --strict --json -E "$(call modules.nix).names")
names=${names#\"} names=${names%\"}
while IFS= read -r name; do
  if result=$(nix-instantiate --eval --strict --json -E "$(call modules.nix).result \"$name\"" 2>"$work/error"); then
    echo "module $name: $result"
  elif count=$(nix-instantiate --eval --strict --json -E "($(call modules.nix).result \"$name\").failedAssertions" 2>/dev/null); then
    result="{\"evaluates\":false,\"failedAssertions\":$count}"
    echo "module $name: $count failed assertions"
  else
    result='{"evaluates":false,"failedAssertions":0}'
    echo "module $name: $(grep -m 1 '^error' "$work/error")"
  fi
  modules+=${modules:+,}"\"$name\":$result"
done < <(printf '%b\n' "$names")

printf '{"mkHostCpuRatio":%s,"mkHostMemRatio":%s,"serverCpuRatio":%s,"modules":{%s}}\n' \
  "$(ratio "${cpu[mkHost]}" "${cpu[plain]}")" "$(ratio "${mem[mkHost]}" "${mem[plain]}")" \
  "$(ratio "${cpu[server]}" "${cpu[plain]}")" "$modules"
