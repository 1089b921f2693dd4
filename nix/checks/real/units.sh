#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# units.sh: systemd reads the units of the scopes, orders the service that empties the root before the
# root's mount, and rates the units that record backups as confined. Needs systemd-analyze.
set -uo pipefail
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
needs systemd-analyze
trap 'rm -rf "$work"' EXIT

units=(
  nixfleet-rollback.service
  nixfleet-backup-data-success.service nixfleet-backup-data-failure.service
  nixfleet-backup-data-restore-test.service nixfleet-backup-data-restore-test.timer
  nixfleet-backup-data-restore-test-success.service nixfleet-backup-data-restore-test-failure.service
)
for unit in "${units[@]}"; do
  # The programs are in a store that is not built here.
  text "units.\"$unit\"" | sed -E 's#^(Exec[A-Za-z]*=)/nix/store/[^ ]+#\1/usr/bin/true#' >"$work/$unit"
done
for unit in "${units[@]}"; do
  output=$(SYSTEMD_UNIT_PATH="$work:" systemd-analyze verify --man=no --recursive-errors=no "$work/$unit" 2>&1)
  same "systemd has nothing against $unit" "$output" ""
done

rollback=$(<"$work/nixfleet-rollback.service")
for line in 'Before=sysroot.mount' 'DefaultDependencies=false' 'Wants=dev-disk-by\x2dlabel-nixos.device'; do
  if [[ $'\n'$rollback$'\n' == *$'\n'"$line"$'\n'* ]]; then ok "the rollback has $line"; else not_ok "the rollback has $line" "$rollback"; fi
done

score=$(systemd-analyze security --offline=1 --no-pager "$work/nixfleet-backup-data-success.service" 2>/dev/null |
  sed -nE 's/.*Overall exposure level[^:]*: ([0-9.]+).*/\1/p')
if [ -n "$score" ] && awk "BEGIN { exit !($score < 4.0) }"; then
  ok "exposure of the unit that records backups is $score, below 4.0"
else
  not_ok "exposure of the unit that records backups is ${score:-unknown}, not below 4.0"
fi

finish
