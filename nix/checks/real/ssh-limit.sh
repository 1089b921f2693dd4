#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# ssh-limit.sh: test the firewall scope's rules with real packets. A pair of interfaces connects two
# network namespaces; the host has NixOS's whole ruleset and the scope's. Needs root, nft, ip, nc.
set -uo pipefail
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
needs nft ip nc
[ "$(id -u)" = 0 ] || skip "not root"

id=$$
host=nixfleet-host-$id peer=nixfleet-peer-$id
listeners=()
cleanup() {
  [ ${#listeners[@]} -eq 0 ] || kill "${listeners[@]}" 2>/dev/null
  ip netns del "$host" 2>/dev/null
  ip netns del "$peer" 2>/dev/null
  rm -rf "$work"
}
trap cleanup EXIT

ip netns add "$host" || skip "no network namespaces here"
ip netns add "$peer"
ip link add "nfh$id" netns "$host" type veth peer name "nfp$id" netns "$peer" || skip "no veth interfaces here"
on_host() { ip netns exec "$host" "$@"; }
on_peer() { ip netns exec "$peer" "$@"; }

# address RUN INTERFACE ADDRESS...: add addresses that are usable at once.
address() {
  local run=$1 interface=$2 each
  shift 2
  "$run" sysctl -q "net.ipv6.conf.$interface.accept_dad=0"
  for each in "$@"; do "$run" ip address add "$each" dev "$interface"; done
  "$run" ip link set lo up
  "$run" ip link set "$interface" up
}
address on_host "nfh$id" 10.99.0.1/24 fd99::1/16
address on_peer "nfp$id" 10.99.0.{2,3,4,5,9}/24 fd99:2::{1,2}/16 fd99:3::1/16 fd99:9::1/16

listen() { on_host nc "$@" >/dev/null 2>&1 & listeners+=($!); }
for port in 22 2222 80; do
  listen -4 -k -l "$port"
  listen -6 -k -l "$port"
done
on_host nc -4 -u -k -l 53 >"$work/datagrams" 2>/dev/null & listeners+=($!)

# until COMMAND...: wait until it succeeds, for at most ten seconds.
until_true() {
  local end=$((SECONDS + 10))
  until "$@"; do [ $SECONDS -lt $end ] || return 1; done
}
listening() { [ "$(on_host ss -Hltn | wc -l)" = 6 ] && [ "$(on_host ss -Hlun | wc -l)" = 1 ]; }
until_true listening || { not_ok "listeners are up" "$(on_host ss -Hltun)"; finish; exit 1; }

connects() { on_peer nc -z -w 1 -s "$1" "$2" "$3" 2>/dev/null; }
# attempts NUMBER SOURCE TARGET PORT: how many of them succeed
attempts() {
  local number=$1 count=0
  shift
  for _ in $(seq "$number"); do if connects "$@"; then count=$((count + 1)); fi; done
  echo "$count"
}

text limited >"$work/limited.nft"
text unlimited >"$work/unlimited.nft"
check "nft accepts the ruleset" on_host nft -c -f "$work/limited.nft"

# Without the scope's table everything passes, so the table causes what follows.
on_host nft -f "$work/unlimited.nft"
same "without the limit all connections pass" "$(attempts 6 10.99.0.2 10.99.0.1 22)" 6
on_host nft flush ruleset
on_host nft -f "$work/limited.nft"

# A session that is open before its source reaches the limit; on a port of its own, since nc serves one
# connection at a time.
mkfifo "$work/keyboard"
on_peer nc -s 10.99.0.2 10.99.0.1 2222 <"$work/keyboard" >/dev/null 2>&1 & listeners+=($!)
exec 3>"$work/keyboard"
established() { on_host ss -Htn state established | grep -q 10.99.0.2; }
until_true established

same "a source gets its three connections, one of them open" "$(attempts 5 10.99.0.2 10.99.0.1 22)" 2
same "a source that is over the limit stays out" "$(attempts 1 10.99.0.2 10.99.0.1 22)" 0
same "another source gets its own three" "$(attempts 5 10.99.0.3 10.99.0.1 22)" 3
same "an exempt source is not counted" "$(attempts 6 10.99.0.9 10.99.0.1 22)" 6
same "other ports are not limited" "$(attempts 6 10.99.0.2 10.99.0.1 80)" 6
same "IPv6 addresses of a network share its three" \
  "$(attempts 2 fd99:2::1 fd99::1 22) $(attempts 3 fd99:2::2 fd99::1 22)" "2 1"
same "another IPv6 network gets its own three" "$(attempts 4 fd99:3::1 fd99::1 22)" 3
same "an exempt IPv6 network is not counted" "$(attempts 6 fd99:9::1 fd99::1 22)" 6
same "a port that is not open stays closed" "$(attempts 1 10.99.0.4 10.99.0.1 81)" 0

bytes() { on_host ss -Htni state established | grep -A1 10.99.0.2 | grep -o 'bytes_received:[0-9]*'; }
echo "still here" >&3
arrived() { [ -n "$(bytes)" ]; }
check "the open session continues while its source is over the limit" until_true arrived
exec 3>&-

for number in 1 2 3 4 5 6; do echo "$number" | on_peer nc -u -w 1 -s 10.99.0.2 10.99.0.1 53; done
received() { [ "$(sort -u "$work/datagrams" | wc -l)" = 6 ]; }
check "datagrams are not limited" until_true received
check "what was refused was counted" grep -qE 'counter packets [1-9]' <(on_host nft list chain inet nixfleet-ssh over-limit)

finish
