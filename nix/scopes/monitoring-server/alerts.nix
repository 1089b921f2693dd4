# SPDX-License-Identifier: MIT
# Part of scope monitoring-server: the alert rules, as Prometheus reads them. checks/real/alert-rules.sh
# checks them with promtool, and tests them with sample metrics.
let
  alert = name: severity: wait: expr: summary: {
    alert = name;
    inherit expr;
    "for" = wait;
    labels = { inherit severity; };
    annotations = { inherit summary; };
  };
  lastBackup = event: "nixfleet_backup_last_event_timestamp_seconds{event=\"${event}\"}";
in
{
  groups = [
    {
      name = "nixfleet-machines";
      rules = [
        (alert "MachineDown" "critical" "5m" ''up{job="node"} == 0''
          "{{ $labels.instance }} has not answered for five minutes.")
        (alert "DiskAlmostFull" "warning" "15m"
          ''node_filesystem_avail_bytes{fstype!~"tmpfs|ramfs|overlay|vfat"} / node_filesystem_size_bytes < 0.1''
          "{{ $labels.mountpoint }} of {{ $labels.instance }} has less than 10 % left.")
        (alert "BootPartitionAlmostFull" "warning" "15m"
          ''node_filesystem_avail_bytes{mountpoint=~"/boot.*"} / node_filesystem_size_bytes < 0.15''
          "{{ $labels.mountpoint }} of {{ $labels.instance }} is almost full; the next switch may not fit.")
        (alert "UnitFailed" "warning" "5m" ''node_systemd_unit_state{state="failed"} == 1''
          "{{ $labels.name }} on {{ $labels.instance }} has failed.")
        (alert "ClockWrong" "warning" "10m" "node_timex_sync_status == 0 or abs(node_timex_offset_seconds) > 1"
          "The clock of {{ $labels.instance }} is not synchronised; signed documents may be refused.")
      ];
    }
    {
      name = "nixfleet-backups";
      rules = [
        (alert "BackupOverdue" "critical" "15m" "time() - ${lastBackup "success"} > 2 * 86400"
          "Backup {{ $labels.backup }} of {{ $labels.instance }} has not succeeded for two days.")
        (alert "BackupFailed" "warning" "0m"
          "${lastBackup "failure"} > ignoring(event) ${lastBackup "success"} or ${lastBackup "failure"} unless ignoring(event) ${lastBackup "success"}"
          "The last run of backup {{ $labels.backup }} of {{ $labels.instance }} failed.")
        (alert "RestoreTestFailed" "critical" "0m"
          "${lastBackup "restore-test-failure"} > ignoring(event) ${lastBackup "restore-test-success"} or ${lastBackup "restore-test-failure"} unless ignoring(event) ${lastBackup "restore-test-success"}"
          "Backup {{ $labels.backup }} of {{ $labels.instance }} could not be restored.")
      ];
    }
    {
      name = "nixfleet-control-plane";
      rules = [
        (alert "ControlPlaneDown" "critical" "5m" ''up{job="nixfleet-control-plane"} == 0''
          "The control plane at {{ $labels.instance }} has not answered for five minutes. Machines keep running; nothing can be deployed.")
        (alert "ControlPlaneRestored" "critical" "0m" "nixfleet_restored_mode == 1"
          "The database of the control plane is older than what the fleet has seen; rollouts stay paused: nixfleet-control-plane doctor says what to do.")
        (alert "ReportsWaiting" "warning" "10m" "nixfleet_reports_waiting > 500"
          "{{ $value }} reports of agents wait in the inbox.")
        (alert "RolloutPaused" "warning" "15m" ''nixfleet_rollouts{state="paused"} > 0''
          "{{ $value }} rollouts have been paused for 15 minutes: nixfleet rollout explain says why.")
        (alert "RolloutFailed" "critical" "0m" ''delta(nixfleet_rollouts{state="failed"}[15m]) > 0''
          "A rollout has failed.")
        (alert "RolloutReverting" "warning" "0m" ''nixfleet_rollouts{state="reverting"} > 0''
          "{{ $value }} rollouts are being reverted.")
        (alert "MachineSilent" "warning" "5m"
          ''nixfleet_machines_silent{seconds="900"} > 0''
          "{{ $value }} machines have not checked in for 15 minutes: nixfleet machine list says when each was last seen.")
        (alert "CertificatesEnding" "warning" "1h" ''nixfleet_certificates{state="ending"} > 0''
          "{{ $value }} machines must be online again soon, or be enrolled again: nixfleet-control-plane doctor names them.")
        (alert "CertificatesEnded" "warning" "1h" ''nixfleet_certificates{state="ended"} > 0''
          "{{ $value }} machines were away for too long and must be enrolled again: nixfleet-control-plane doctor names them.")
        (alert "MachinesUnhealthy" "warning" "15m" ''nixfleet_machines_health{health="unhealthy"} > 0''
          "{{ $value }} machines fail their health checks.")
        (alert "WebhookDeadLetters" "warning" "0m" ''nixfleet_webhook_messages{state="dead"} > 0''
          "{{ $value }} messages of webhooks were not taken for a day: nixfleet webhook list says whose.")
        (alert "WebhookBehind" "warning" "30m" ''nixfleet_webhook_messages{state="waiting"} > 100''
          "{{ $value }} messages of webhooks wait for their receivers.")
        (alert "ApiErrors" "warning" "10m"
          ''sum by (listener) (rate(nixfleet_http_requests_total{status=~"5.."}[5m])) / sum by (listener) (rate(nixfleet_http_requests_total[5m])) > 0.05''
          "More than 5 % of the requests of {{ $labels.listener }} fail.")
        (alert "MachinesDrifted" "warning" "30m" "nixfleet_machines_drift > 0"
          "{{ $value }} machines run a system that their agent did not activate.")
      ];
    }
  ];
}
