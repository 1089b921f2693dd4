#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Records how a backup or a restore test ended: the time in a file of its own, for compliance probes
# and people; the same time as a metric for Prometheus; and a ping to an external monitor.
#   BACKUP              name of the job
#   EVENT               success, failure, restore-test-success or restore-test-failure
#   STATE_DIRECTORY     where the record goes
#   TEXTFILE_DIRECTORY  directory of the node exporter's text files; may be empty
#   CREDENTIALS_DIRECTORY  may contain ping-url
set -eu

now=$(date +%s)

put() {
  printf '%s\n' "$2" >"$1.new"
  mv "$1.new" "$1"
}

put "$STATE_DIRECTORY/$BACKUP-$EVENT" "$now"
if [ -d "${TEXTFILE_DIRECTORY:-}" ]; then
  put "$TEXTFILE_DIRECTORY/nixfleet-backup-$BACKUP-$EVENT.prom" \
    "nixfleet_backup_last_event_timestamp_seconds{backup=\"$BACKUP\",event=\"$EVENT\"} $now"
fi

if [ -e "${CREDENTIALS_DIRECTORY:-}/ping-url" ]; then
  url=$(cat "$CREDENTIALS_DIRECTORY/ping-url")
  case $EVENT in *failure) url=${url%/}/fail ;; esac
  # As configuration on standard input: the URL is a secret, and every user can see arguments.
  curl --config - <<<"url = \"$url\"
fail
silent
show-error
max-time = 10
retry = 5
output = /dev/null"
fi
