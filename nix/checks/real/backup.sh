#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# backup.sh: run a restic job of the backup scope from its generated unit: backup, restore, compare,
# prune, restore test, records. Needs restic, curl and nc.
set -uo pipefail
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
needs restic curl nc find
server=
cleanup() {
  [ -z "$server" ] || kill "$server" 2>/dev/null
  rm -rf "$work"
}
trap cleanup EXIT

mkdir -p "$work"/{data/deep,state,metrics,credentials,cache,run,restored}
echo "a password" >"$work/password"
head -c 300000 /dev/urandom >"$work/data/deep/blob"
echo "first" >"$work/data/file with spaces"
ln -s deep/blob "$work/data/link"
chmod 600 "$work/data/deep/blob"
echo "left out" >"$work/data/scratch.tmp"

# place: replace the machine's paths by those of this run, and store paths by restic and the texts.
place() {
  sed -e "s#@data@#$work/data#g; s#@repository@#$work/repository#g; s#@password@#$work/password#g; s#@work@#$work#g" \
    -e "s#/var/cache/restic-backups-data#$work/cache#g; s#/run/restic-backups-data#$work/run#g" \
    -e "s#/var/tmp#$work#g; s#/nix/store/[^ ]*/bin/restic#restic#g" \
    -e "s#/nix/store/[^ )]*-staticPaths#$work/paths#g; s#/nix/store/[^ )]*-exclude-patterns#$work/excludes#g" \
    -e "s#/nix/store/[^ ]*-backupPrepareCommand#bash $work/prepare#g; s#/nix/store/[^ ]*-backupCleanupCommand#bash $work/cleanup#g"
}
text backup | place >"$work/job"
text backupHooks.prepare | place >"$work/prepare"
text backupHooks.cleanup | place >"$work/cleanup"
text restoreTest | place | sed "s#export HOST=.*#export HOST=$(uname -n)#" >"$work/restore-test"
text reportSuccess >"$work/report-success"
text reportFailure >"$work/report-failure"
echo "$work/data" >"$work/paths"
echo "*.tmp" >"$work/excludes"
if grep -n /nix/store "$work/job" "$work/restore-test"; then
  not_ok "everything that the unit runs is known here"
  finish
  exit 1
fi

# The phases of one run of the unit, as in systemd: the commands before, the commands, those after.
job() {
  bash -euc ". '$work/job'; before; run" >"$work/output" 2>&1
  local result=$?
  bash -euc ". '$work/job'; after" >>"$work/output" 2>&1 || return
  return $result
}
restic_here() { restic --repo "$work/repository" --password-file "$work/password" --cache-dir "$work/cache" "$@"; }
snapshots() { restic_here snapshots --json | grep -o '"short_id"' | wc -l; }

check "the job runs" job || { cat "$work/output" >&2; }
check "its hooks ran" test -e "$work/hook-before" -a -e "$work/hook-after"
same "the repository was made, with one backup" "$(snapshots)" 1
restic_here restore latest --target "$work/restored" >/dev/null
rm "$work/data/scratch.tmp"
check "the restored files are those that were backed up, without the excluded ones" diff -r "$work/data" "$work/restored$work/data"
same "modes are restored" "$(stat -c %a "$work/restored$work/data/deep/blob")" 600
check "the repository is intact" restic_here check

for run in 2 3 4; do
  echo "$run" >"$work/data/file with spaces"
  job
done
same "old backups are pruned" "$(snapshots)" 2

check "the restore test restores the newest backup" bash "$work/restore-test"
same "and leaves nothing behind" "$(find "$work" -mindepth 1 -maxdepth 1 -name 'tmp.*' | wc -l)" 0
check "it fails for a host without a backup" bash -c "! bash <(sed 's#export HOST=.*#export HOST=no-such-host#' '$work/restore-test')"

echo "wrong" >"$work/password"
check "a job that cannot open its repository fails" bash -c '! "$@"' _ bash -euc ". '$work/job'; before; run"

# The restore test of borgbackup, on a given repository.
if command -v borg >/dev/null; then
  export BORG_REPO=$work/borg BORG_PASSPHRASE=secret BORG_BASE_DIR=$work/borg-home
  borg init --encryption repokey-blake2 2>/dev/null
  borg create ::web-01-vault-2026-01-01 "$work/data"
  mkdir "$work/empty"
  borg create ::web-01-empty-2026-01-01 "$work/empty"
  text borgRestoreTest | place >"$work/borg-restore-test"
  restores() { sed "s#^export ARCHIVES=.*#export ARCHIVES='$1'#; s#^export BORG_[A-Z]*=.*##" "$work/borg-restore-test" | bash; }
  fails() { ! "$@"; }
  check "borgbackup: the restore test restores the newest backup" restores 'web-01-vault-*'
  check "borgbackup: it fails for a job without a backup" fails restores 'web-01-other-*'
  check "borgbackup: it fails for a backup without a file" fails restores 'web-01-empty-*'
else
  echo "SKIP: borgbackup's restore test did not run: borg is not installed" >&2
  echo "ok - $name: borgbackup # SKIP borg is not installed"
fi

# The records, with a server that accepts one request and stores it.
freeport=$((20000 + $$ % 20000))
request() {
  nc -l -s 127.0.0.1 -p "$freeport" >"$work/request" <<<$'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r' &
  server=$!
  local end=$((SECONDS + 10))
  until ss -Hltn "sport = :$freeport" | grep -q .; do [ $SECONDS -lt $end ] || return 1; done
}
report() {
  STATE_DIRECTORY=$work/state CREDENTIALS_DIRECTORY=$work/credentials bash -c \
    ". <(sed 's#^export TEXTFILE_DIRECTORY=.*#export TEXTFILE_DIRECTORY=$work/metrics#' '$work/$1')"
}
echo "http://127.0.0.1:$freeport/ping/abc" >"$work/credentials/ping-url"
now=$(date +%s)
request
check "a success is reported" report report-success
wait "$server"
check "to the URL" grep -q '^GET /ping/abc HTTP' "$work/request"
check "and recorded with its time" test "$(cat "$work/state/data-success")" -ge "$now"
check "and written as a metric" grep -qE '^nixfleet_backup_last_event_timestamp_seconds\{backup="data",event="success"\} [0-9]+$' "$work/metrics/nixfleet-backup-data-success.prom"
request
check "a failure is reported" report report-failure
wait "$server"
check "to the URL of failures" grep -q '^GET /ping/abc/fail HTTP' "$work/request"
server=

finish
