#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# alert-rules.sh: promtool reads the alert rules of the monitoring-server scope, and tests each with
# metrics that must raise it and metrics that must not. Needs promtool; no Nixpkgs, for the rules are plain Nix.
set -uo pipefail
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
has promtool nix-instantiate
trap 'rm -rf "$work"' EXIT

# JSON is YAML; the scope hands the same to Prometheus.
NIX_REMOTE=dummy:// nix-instantiate --eval --strict --json "$root/nix/scopes/monitoring-server/alerts.nix" >"$work/rules.yml" ||
  not_ok "the rules evaluate"
check "the rules are valid" promtool check rules "$work/rules.yml"

cat >"$work/tests.yml" <<'YML'
rule_files: [ rules.yml ]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'up{job="node",instance="web-01"}'
        values: '1x10 0x30'
      - series: 'up{job="node",instance="web-02"}'
        values: '1x40'
      - series: 'up{job="nixfleet-control-plane",instance="cp-01"}'
        values: '1x10 0x30'
      - series: 'node_filesystem_avail_bytes{instance="web-01",mountpoint="/",fstype="ext4"}'
        values: '5x40'
      - series: 'node_filesystem_size_bytes{instance="web-01",mountpoint="/",fstype="ext4"}'
        values: '100x40'
      - series: 'node_filesystem_avail_bytes{instance="web-01",mountpoint="/boot",fstype="vfat"}'
        values: '12x40'
      - series: 'node_filesystem_size_bytes{instance="web-01",mountpoint="/boot",fstype="vfat"}'
        values: '100x40'
      - series: 'node_systemd_unit_state{instance="web-01",name="nginx.service",state="failed"}'
        values: '1x40'
      - series: 'node_timex_sync_status{instance="web-01"}'
        values: '0x40'
      - series: 'node_timex_offset_seconds{instance="web-02"}'
        values: '-2x40'
      - series: 'nixfleet_rollouts{state="paused"}'
        values: '1x40'
      - series: 'nixfleet_rollouts{state="reverting"}'
        values: '0x40'
      - series: 'nixfleet_rollouts{state="failed"}'
        values: '3x20 4x20'
      - series: 'nixfleet_restored_mode'
        values: '0x20 1x20'
      - series: 'nixfleet_reports_waiting'
        values: '1000x40'
      - series: 'nixfleet_machines_silent{seconds="900"}'
        values: '0x15 1x25'
      - series: 'nixfleet_machines_silent{seconds="3600"}'
        values: '0x40'
      - series: 'nixfleet_machines_health{health="unhealthy"}'
        values: '1x40'
      - series: 'nixfleet_machines_health{health="healthy"}'
        values: '5x40'
      - series: 'nixfleet_machines_drift'
        values: '0x40'
      - series: 'nixfleet_webhook_messages{state="dead"}'
        values: '0x20 2x80'
      - series: 'nixfleet_webhook_messages{state="waiting"}'
        values: '101x30 100x70'
      - series: 'nixfleet_http_requests_total{listener="operators",operation="info",status="200"}'
        values: '0+90x100'
      - series: 'nixfleet_http_requests_total{listener="operators",operation="info",status="500"}'
        values: '0+10x100'
      - series: 'nixfleet_http_requests_total{listener="agents",operation="checkIn",status="200"}'
        values: '0+96x100'
      - series: 'nixfleet_http_requests_total{listener="agents",operation="checkIn",status="503"}'
        values: '0+4x100'
      - series: 'nixfleet_certificates{state="ending"}'
        values: '2x100'
      - series: 'nixfleet_certificates{state="ended"}'
        values: '0x30 1x70'
    alert_rule_test:
      - { eval_time: 12m, alertname: MachineDown, exp_alerts: [] }
      - eval_time: 20m
        alertname: MachineDown
        exp_alerts:
          - exp_labels: { severity: critical, job: node, instance: web-01 }
            exp_annotations: { summary: "web-01 has not answered for five minutes." }
      - eval_time: 20m
        alertname: ControlPlaneDown
        exp_alerts:
          - exp_labels: { severity: critical, job: nixfleet-control-plane, instance: cp-01 }
            exp_annotations: { summary: "The control plane at cp-01 has not answered for five minutes. Machines keep running; nothing can be deployed." }
      - eval_time: 20m
        alertname: DiskAlmostFull
        exp_alerts:
          - exp_labels: { severity: warning, instance: web-01, mountpoint: /, fstype: ext4 }
            exp_annotations: { summary: "/ of web-01 has less than 10 % left." }
      - eval_time: 20m
        alertname: BootPartitionAlmostFull
        exp_alerts:
          - exp_labels: { severity: warning, instance: web-01, mountpoint: /boot, fstype: vfat }
            exp_annotations: { summary: "/boot of web-01 is almost full; the next switch may not fit." }
      - eval_time: 20m
        alertname: UnitFailed
        exp_alerts:
          - exp_labels: { severity: warning, instance: web-01, name: nginx.service, state: failed }
            exp_annotations: { summary: "nginx.service on web-01 has failed." }
      - eval_time: 20m
        alertname: ClockWrong
        exp_alerts:
          - exp_labels: { severity: warning, instance: web-01 }
            exp_annotations: { summary: "The clock of web-01 is not synchronised; signed documents may be refused." }
          - exp_labels: { severity: warning, instance: web-02 }
            exp_annotations: { summary: "The clock of web-02 is not synchronised; signed documents may be refused." }
      - eval_time: 20m
        alertname: RolloutPaused
        exp_alerts:
          - exp_labels: { severity: warning, state: paused }
            exp_annotations: { summary: "1 rollouts have been paused for 15 minutes: nixfleet rollout explain says why." }
      - { eval_time: 20m, alertname: RolloutReverting, exp_alerts: [] }
      - { eval_time: 15m, alertname: RolloutFailed, exp_alerts: [] }
      - eval_time: 25m
        alertname: RolloutFailed
        exp_alerts:
          - exp_labels: { severity: critical, state: failed }
            exp_annotations: { summary: "A rollout has failed." }
      - { eval_time: 40m, alertname: RolloutFailed, exp_alerts: [] }
      - { eval_time: 15m, alertname: ControlPlaneRestored, exp_alerts: [] }
      - eval_time: 25m
        alertname: ControlPlaneRestored
        exp_alerts:
          - exp_labels: { severity: critical }
            exp_annotations: { summary: "The database of the control plane is older than what the fleet has seen; rollouts stay paused: nixfleet-control-plane doctor says what to do." }
      - eval_time: 20m
        alertname: ReportsWaiting
        exp_alerts:
          - exp_labels: { severity: warning }
            exp_annotations: { summary: "1000 reports of agents wait in the inbox." }
      - { eval_time: 15m, alertname: MachineSilent, exp_alerts: [] }
      - eval_time: 30m
        alertname: MachineSilent
        exp_alerts:
          - exp_labels: { severity: warning, seconds: "900" }
            exp_annotations: { summary: "1 machines have not checked in for 15 minutes: nixfleet machine list says when each was last seen." }
      - eval_time: 20m
        alertname: MachinesUnhealthy
        exp_alerts:
          - exp_labels: { severity: warning, health: unhealthy }
            exp_annotations: { summary: "1 machines fail their health checks." }
      - { eval_time: 40m, alertname: MachinesDrifted, exp_alerts: [] }
      - { eval_time: 15m, alertname: WebhookDeadLetters, exp_alerts: [] }
      - eval_time: 25m
        alertname: WebhookDeadLetters
        exp_alerts:
          - exp_labels: { severity: warning, state: dead }
            exp_annotations: { summary: "2 messages of webhooks were not taken for a day: nixfleet webhook list says whose." }
      - eval_time: 30m
        alertname: WebhookBehind
        exp_alerts:
          - exp_labels: { severity: warning, state: waiting }
            exp_annotations: { summary: "101 messages of webhooks wait for their receivers." }
      - { eval_time: 40m, alertname: WebhookBehind, exp_alerts: [] }
      - { eval_time: 5m, alertname: ApiErrors, exp_alerts: [] }
      - eval_time: 30m
        alertname: ApiErrors
        exp_alerts:
          - exp_labels: { severity: warning, listener: operators }
            exp_annotations: { summary: "More than 5 % of the requests of operators fail." }
      - { eval_time: 50m, alertname: CertificatesEnding, exp_alerts: [] }
      - eval_time: 70m
        alertname: CertificatesEnding
        exp_alerts:
          - exp_labels: { severity: warning, state: ending }
            exp_annotations: { summary: "2 machines must be online again soon, or be enrolled again: nixfleet-control-plane doctor names them." }
      - { eval_time: 80m, alertname: CertificatesEnded, exp_alerts: [] }
      - eval_time: 95m
        alertname: CertificatesEnded
        exp_alerts:
          - exp_labels: { severity: warning, state: ended }
            exp_annotations: { summary: "1 machines were away for too long and must be enrolled again: nixfleet-control-plane doctor names them." }

  # Times are seconds since the epoch, and the test begins at 0.
  - interval: 1m
    input_series:
      - series: 'nixfleet_backup_last_event_timestamp_seconds{instance="db-01",backup="data",event="success"}'
        values: '0x4000'
      - series: 'nixfleet_backup_last_event_timestamp_seconds{instance="db-01",backup="data",event="failure"}'
        values: '3600x4000'
      - series: 'nixfleet_backup_last_event_timestamp_seconds{instance="db-02",backup="data",event="success"}'
        values: '0+60x4000'
      - series: 'nixfleet_backup_last_event_timestamp_seconds{instance="db-02",backup="data",event="failure"}'
        values: '100x4000'
      - series: 'nixfleet_backup_last_event_timestamp_seconds{instance="db-03",backup="new",event="failure"}'
        values: '100x4000'
      - series: 'nixfleet_backup_last_event_timestamp_seconds{instance="db-01",backup="data",event="restore-test-failure"}'
        values: '100x4000'
    alert_rule_test:
      - { eval_time: 40h, alertname: BackupOverdue, exp_alerts: [] }
      - eval_time: 60h
        alertname: BackupOverdue
        exp_alerts:
          - exp_labels: { severity: critical, instance: db-01, backup: data, event: success }
            exp_annotations: { summary: "Backup data of db-01 has not succeeded for two days." }
      - eval_time: 60h
        alertname: BackupFailed
        exp_alerts:
          - exp_labels: { severity: warning, instance: db-01, backup: data }
            exp_annotations: { summary: "The last run of backup data of db-01 failed." }
          - exp_labels: { severity: warning, instance: db-03, backup: new, event: failure }
            exp_annotations: { summary: "The last run of backup new of db-03 failed." }
      - eval_time: 60h
        alertname: RestoreTestFailed
        exp_alerts:
          - exp_labels: { severity: critical, instance: db-01, backup: data, event: restore-test-failure }
            exp_annotations: { summary: "Backup data of db-01 could not be restored." }
YML
check "they fire when they should, and not when they should not" promtool test rules "$work/tests.yml"

finish
