# SPDX-License-Identifier: MIT
# vm.sh VERB [options]: the hosts of a flake as virtual machines on this machine, under QEMU.
# mk-vm-apps.nix wraps it, with the host names in NIXFLEET_VM_HOSTS; without them it asks the flake.

usage() {
  cat <<TEXT
usage: $1-vm (-h HOST)... | --all [options]

  -h, --host HOST     this host; repeat it for more hosts
  --all               every host of the flake
  --flake FLAKE       the flake (.)
  --ram MB            memory (2048)
  --cpus N            processors (2)
  --disk-size SIZE    size of a new disk, such as 20G (default: the host's configuration)
  --ssh-port PORT     first port for SSH from this machine (2201); a host keeps its port
  --vlan PORT         connect the machines to each other over this multicast port
  --display           show the screen; without it, there is only the log

Disks, ports and logs are in ${state}.
TEXT
}

state=${NIXFLEET_VM_STATE:-${XDG_STATE_HOME:-$HOME/.local/state}/nixfleet/vms}
fail() { echo "nixfleet-vm: $*" >&2; exit "${code:-1}"; }

verb=${1:?}
shift
hosts=() all='' flake=. ram=2048 cpus=2 disk_size='' ssh_port=2201 vlan='' display=''
number() { [[ $2 =~ ^[1-9][0-9]*$ ]] || code=2 fail "$1 must be a number, not '$2'"; }
while [ $# -gt 0 ]; do
  case $1 in
    --help) usage "$verb"; exit 0 ;;
    --all) all=1; shift; continue ;;
    --display) display=1; shift; continue ;;
  esac
  [ $# -ge 2 ] || code=2 fail "$1 needs a value, or is unknown; --help lists the options"
  case $1 in
    -h | --host) hosts+=("$2") ;;
    --flake) flake=$2 ;;
    --ram) number "$1" "$2"; ram=$2 ;;
    --cpus) number "$1" "$2"; cpus=$2 ;;
    --disk-size) disk_size=$2 ;;
    --ssh-port) number "$1" "$2"; ssh_port=$2 ;;
    --vlan) number "$1" "$2"; vlan=$2 ;;
    *) code=2 fail "unknown option $1; --help lists them" ;;
  esac
  shift 2
done
if [ -z "${NIXFLEET_VM_HOSTS:-}" ]; then
  NIXFLEET_VM_HOSTS=$(nix --extra-experimental-features 'nix-command flakes' eval --raw \
    "$flake#nixosConfigurations" --apply 'hosts: toString (builtins.attrNames hosts)')
fi
read -ra known <<<"$NIXFLEET_VM_HOSTS"
if [ -n "$all" ]; then hosts=("${known[@]}"); fi
[ ${#hosts[@]} -gt 0 ] || code=2 fail "which host? -h HOST or --all; there are: $NIXFLEET_VM_HOSTS"
for host in "${hosts[@]}"; do
  [[ " ${known[*]} " == *" $host "* ]] || code=2 fail "no host $host; there are: $NIXFLEET_VM_HOSTS"
done
mkdir -p "$state"

# port HOST: its port for SSH: the first free one, and the same in every later call.
port() {
  local taken next=$ssh_port
  (
    flock 9
    taken=$(sed -nE "s/^$1 ([0-9]+)$/\1/p" "$state/ports" 2>/dev/null || true)
    if [ -z "$taken" ]; then
      while grep -qE " $next$" "$state/ports" 2>/dev/null; do next=$((next + 1)); done
      echo "$1 $next" >>"$state/ports"
      taken=$next
    fi
    echo "$taken"
  ) 9>"$state/.lock"
}

running() { [ -e "$state/$1/pid" ] && kill -0 "$(cat "$state/$1/pid")" 2>/dev/null; }

build() {
  mkdir -p "$state/$1"
  nix --extra-experimental-features 'nix-command flakes' build --out-link "$state/$1/result" \
    "$flake#nixosConfigurations.$1.config.system.build.vm"
}

# Make a disk of another size than the configuration's, in the way of the machine's own script.
make_disk() {
  qemu-img create -q -f raw "$1.raw" "$disk_size"
  mkfs.ext4 -q -L nixos "$1.raw"
  qemu-img convert -f raw -O qcow2 "$1.raw" "$1"
  rm "$1.raw"
}

start() {
  local host=$1 dir=$state/$1 runner ssh options
  if running "$host"; then echo "$host is already running"; return; fi
  [ -e "$dir/result" ] || build "$host"
  runner=("$dir"/result/bin/run-*-vm)
  ssh=$(port "$host")
  [ -e "$dir/disk.qcow2" ] || [ -z "$disk_size" ] || make_disk "$dir/disk.qcow2"
  options="-m $ram -smp $cpus -monitor unix:$dir/monitor,server,nowait"
  if [ -n "$vlan" ]; then
    options+=" -nic socket,mcast=230.0.0.1:$vlan,mac=52:54:00:$(sha256sum <<<"$host" | sed -E 's/^(..)(..)(..).*/\1:\2:\3/')"
  fi
  [ -n "$display" ] || options+=" -display none -serial file:$dir/console.log"
  NIX_DISK_IMAGE=$dir/disk.qcow2 QEMU_NET_OPTS=hostfwd=tcp:127.0.0.1:$ssh-:22 QEMU_OPTS=$options \
    setsid "${runner[0]}" >"$dir/log" 2>&1 </dev/null &
  echo $! >"$dir/pid"
  echo "$host: ssh -p $ssh root@127.0.0.1   (log: $dir/log)"
}

# Ask the machine to power off; kill it if it does not in time.
stop() {
  local host=$1 dir=$state/$1 pid
  if ! running "$host"; then echo "$host is not running"; return; fi
  pid=$(cat "$dir/pid")
  echo system_powerdown | socat -t 1 - "UNIX-CONNECT:$dir/monitor" >/dev/null 2>&1 || kill "$pid" 2>/dev/null || true
  timeout "${NIXFLEET_VM_STOP_SECONDS:-60}" tail --pid="$pid" -f /dev/null || kill -9 "$pid" 2>/dev/null || true
  rm -f "$dir/pid" "$dir/monitor"
  echo "$host is off"
}

clean() {
  stop "$1" >/dev/null
  rm -rf "${state:?}/$1"
  echo "$1: disk and log are removed; it keeps its port"
}

on() {
  ssh -q -p "$(port "$1")" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5 -o BatchMode=yes root@127.0.0.1 "${@:2}"
}

# Start one machine from an empty disk, wait until its system runs, and remove it again.
check() {
  local host=$1 end=$((SECONDS + ${NIXFLEET_VM_TEST_SECONDS:-300})) result=0
  clean "$host" >/dev/null
  build "$host"
  start "$host"
  until on "$host" true; do
    running "$host" || { tail -n 20 "$state/$host/log" >&2; fail "$host ended before it could be reached"; }
    [ "$SECONDS" -lt "$end" ] || { stop "$host"; fail "$host could not be reached by SSH in time; is your key among its rootSshKeys?"; }
    sleep 1
  done
  on "$host" systemctl is-system-running --wait || { on "$host" systemctl --failed --no-pager || true; result=1; }
  clean "$host"
  [ "$result" -eq 0 ] || fail "$host came up with failed units"
  echo "$host runs, and no unit failed"
}

one() {
  case $verb in
    build) build "$1" ;;
    start) start "$1" ;;
    stop) stop "$1" ;;
    clean) clean "$1" ;;
    test) check "$1" ;;
    *) code=2 fail "unknown verb $verb" ;;
  esac
}

# All at once. If one fails, the whole call fails.
pids=()
for host in "${hosts[@]}"; do
  one "$host" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=1; done
exit "$status"
