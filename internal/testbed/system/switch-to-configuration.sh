#!/bin/sh
# SPDX-License-Identifier: MIT
# The order and the exit codes of NixOS' own switch-to-configuration, on real units.
# Lists of units are split into words on purpose.
# shellcheck disable=SC2086
PATH=/usr/sbin:/usr/bin:/sbin:/bin
action=$1 out=@out@

case $action in
  switch | boot | test | dry-activate) ;;
  *)
    echo "Usage: $0 [switch|boot|test|dry-activate]" >&2
    exit 1
    ;;
esac
if [ ! -e /etc/NIXOS ]; then
  echo "This is not a NixOS installation!" >&2
  exit 1
fi

mkdir -p /run/nixos
exec 9> /run/nixos/switch-to-configuration.lock
if ! flock -n 9; then
  echo "Could not acquire lock" >&2
  exit 1
fi

case $action in
  switch | test)
    if [ -e /run/current-system/switch-inhibitors ] && [ -z "${NIXOS_NO_CHECK:-}" ] \
      && ! cmp -s /run/current-system/switch-inhibitors "$out/switch-inhibitors"; then
      echo "Pre-switch checks failed: critical components changed: $(cat "$out/switch-inhibitors")" >&2
      exit 1
    fi
    ;;
esac

# The boot loader: a file that the next boot reads.
case $action in
  switch | boot)
    mkdir -p /boot
    echo "$out" > /boot/default.new && sync /boot/default.new && mv /boot/default.new /boot/default
    ;;
esac
[ "$action" != boot ] || exit 0

say() { [ -z "$2" ] || echo "$1 the following units:$2"; }
units() {
  [ ! -d "$1" ] || (cd "$1" && for u in *.service *.timer; do [ ! -e "$u" ] || echo "$u"; done)
}
active() {
  case $(systemctl show -p ActiveState --value "$1") in inactive | failed) return 1 ;; esac
}

# Decide what to do with each unit that runs. The targets below start the others.
old=$(readlink -f /run/current-system)/etc/systemd/system new=$out/etc/systemd/system
stop='' skip='' restart='' start=''
for u in $(units "$old"); do
  active "$u" || continue
  if [ ! -e "$new/$u" ]; then
    stop="$stop $u"
  elif cmp -s "$old/$u" "$new/$u"; then
    :
  elif grep -q '^X-RestartIfChanged=false' "$new/$u"; then
    skip="$skip $u"
  elif grep -q '^X-StopIfChanged=false' "$new/$u"; then
    restart="$restart $u"
  else
    stop="$stop $u"
    start="$start $u"
  fi
done

if [ "$action" = dry-activate ]; then
  say "would stop" "$stop"
  say "would NOT restart" "$skip"
  echo "would activate the configuration..."
  "$out/dry-activate" || true
  say "would restart" "$restart"
  say "would start" "$start"
  exit 0
fi

result=0
before=$(systemctl list-units --state=active --plain --no-legend | cut -d' ' -f1)
say stopping "$stop"
[ -z "$stop" ] || systemctl stop $stop
say "NOT restarting" "$skip"
echo "activating the configuration..."
"$out/activate" || result=2

systemctl daemon-reload || result=3
say restarting "$restart"
[ -z "$restart" ] || systemctl restart $restart 9>&- || result=4
say starting "$start"
systemctl start multi-user.target timers.target $start 9>&- || result=4

# Any failed unit of the host counts, as on NixOS, also one that this switch did not change.
started='' failed=$(systemctl list-units --failed --plain --no-legend | sed 's/ .*//; s/^/ /' | tr -d '\n')
for u in $(units "$new"); do
  case $(systemctl show -p ActiveState --value "$u") in
    active) printf '%s\n' "$before" $start $restart | grep -qxF "$u" || started="$started $u" ;;
    activating) ! systemctl show -p SubState --value "$u" | grep -q auto-restart || failed="$failed $u" ;;
  esac
done
[ -z "$started" ] || echo "the following new units were started:$started"
if [ -n "$failed" ]; then
  echo "warning: the following units failed:$failed" >&2
  result=4
fi
exit $result
