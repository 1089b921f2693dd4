# SPDX-License-Identifier: MIT
# cable.sh LINK in|out|RATE: the hub's end of a host's cable; RATE limits what the host receives. Run in the hub's network.
set -euo pipefail
link=$1 state=$2
tc qdisc del dev "$link" root 2> /dev/null || true
case $state in
  in) ip link set "$link" up ;;
  out) ip link set "$link" down ;;
  *)
    ip link set "$link" up
    tc qdisc replace dev "$link" root tbf rate "$state" burst 32kb latency 400ms
    ;;
esac
