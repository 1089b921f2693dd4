#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# vm-apps.sh: what the VM apps do around QEMU, which a program that only waits replaces: which hosts and
# ports they use, what they start once, stop and remove. Prints `N passed, N failed`.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
end() {
  local file
  for file in "$work"/state/*/pid; do [ -e "$file" ] && kill "$(cat "$file")" 2>/dev/null; done
  rm -rf "$work"
}
trap end EXIT

mkdir -p "$work/bin"
# Builds a runner that records how it was called, and waits.
cat >"$work/bin/nix" <<'NIX'
#!/usr/bin/env bash
[[ " $* " != *" eval "* ]] || { printf 'cp-01 web-01'; exit; }
while [ $# -gt 1 ]; do [ "$1" != --out-link ] || link=$2; shift; done
host=${1#*nixosConfigurations.} host=${host%%.*}
[ "$host" != broken ] || { echo "error: broken does not evaluate" >&2; exit 1; }
mkdir -p "$link/bin"
printf '#!/usr/bin/env bash\necho "$QEMU_OPTS $QEMU_NET_OPTS" >"$(dirname "$NIX_DISK_IMAGE")/called"\ntouch "$NIX_DISK_IMAGE"\nexec tail -f /dev/null\n' >"$link/bin/run-$host-vm"
chmod +x "$link/bin/run-$host-vm"
NIX
chmod +x "$work/bin/nix"

export PATH=$work/bin:$PATH NIXFLEET_VM_STATE=$work/state NIXFLEET_VM_HOSTS="broken cp-01 web-01 web-02" NIXFLEET_VM_STOP_SECONDS=5
vm() { bash -euo pipefail "$here/../lib/vm.sh" "$@"; }

passed=0 failed=0
# expect NAME STATUS TEXT COMMAND...: the exit code, and TEXT in the output.
expect() {
  local name=$1 status=$2 text=$3 output got
  shift 3
  output=$("$@" 2>&1)
  got=$?
  if [ $got -eq "$status" ] && [[ $output == *"$text"* ]]; then
    passed=$((passed + 1))
    echo "ok - $name"
  else
    failed=$((failed + 1))
    echo "not ok - $name: exit $got, wanted $status and: $text"
    while IFS= read -r line; do echo "# $line"; done <<<"$output"
  fi
}
called() { for _ in $(seq 50); do [ -s "$work/state/$1/called" ] && break; read -rt 0.1 <> <(:) || true; done; cat "$work/state/$1/called"; }

expect "without a host the error lists them" 2 "there are: broken cp-01 web-01 web-02" vm start
expect "so does the error about an unknown host" 2 "no host web-09" vm start -h web-09
expect "a value that is not a number is an error" 2 "--ram must be a number" vm start -h web-01 --ram much
expect "an unknown option is an error" 2 "unknown option --speed" vm start -h web-01 --speed 3
expect "without names it asks the flake" 2 "there are: cp-01 web-01" env NIXFLEET_VM_HOSTS= bash -euo pipefail "$here/../lib/vm.sh" start
expect "there is a help text" 0 "--vlan PORT" vm start --help
expect "a host starts" 0 "web-01: ssh -p 2201 root@127.0.0.1" vm start -h web-01 --vlan 4711 --ram 512 --cpus 1
expect "with the options that were given" 0 "-m 512 -smp 1" called web-01
expect "with its own network" 0 "mcast=230.0.0.1:4711,mac=52:54:00:" called web-01
expect "and its port" 0 "hostfwd=tcp:127.0.0.1:2201-:22" called web-01
expect "a second start does nothing" 0 "web-01 is already running" vm start -h web-01
expect "another host gets another port" 0 "ssh -p 2202" vm start -h cp-01
expect "a machine stops" 0 "web-01 is off" vm stop -h web-01
expect "and is off" 0 "web-01 is not running" vm stop -h web-01
expect "its disk is still there" 0 "" test -e "$work/state/web-01/disk.qcow2"
expect "it starts again at its own port" 0 "ssh -p 2201" vm start -h web-01
expect "a running machine is cleaned" 0 "disk and log are removed" vm clean -h web-01
expect "and nothing remains" 1 "" test -e "$work/state/web-01"
expect "a failed build fails, and says why" 1 "broken does not evaluate" vm build -h broken -h web-02
expect "the others are still built" 0 "" test -x "$work/state/web-02/result/bin/run-web-02-vm"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
