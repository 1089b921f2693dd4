# SPDX-License-Identifier: MIT
# Part of scope monitoring-server: the Grafana dashboard, as Grafana reads it.
let
  width = 8;
  height = 7;
  datasource = {
    type = "prometheus";
    uid = "nixfleet-prometheus";
  };
  panel =
    position: type: title: unit: queries:
    {
      id = position + 1;
      inherit type title datasource;
      gridPos = {
        h = height;
        w = width;
        x = width * (position - 3 * (position / 3));
        y = height * (position / 3);
      };
      fieldConfig = {
        defaults = { inherit unit; };
        overrides = [ ];
      };
      targets = builtins.genList (
        index:
        let
          query = builtins.elemAt queries index;
        in
        {
          inherit datasource;
          refId = builtins.elemAt [ "A" "B" "C" "D" ] index;
          inherit (query) expr;
          legendFormat = query.legend;
        }
      ) (builtins.length queries);
    };
  query = expr: legend: { inherit expr legend; };
in
{
  uid = "nixfleet";
  title = "NixFleet";
  tags = [ "nixfleet" ];
  schemaVersion = 39;
  editable = false;
  refresh = "30s";
  time = {
    from = "now-6h";
    to = "now";
  };
  panels = [
    (panel 0 "stat" "Machines that answer" "short" [
      (query ''count(up{job="node"} == 1)'' "up")
      (query ''count(up{job="node"} == 0) or vector(0)'' "down")
    ])
    (panel 1 "timeseries" "Active machines by health" "short" [
      (query "nixfleet_machines_health" "{{health}}")
      (query "nixfleet_machines_online" "online")
      (query "nixfleet_machines_drift" "drifted")
    ])
    (panel 2 "timeseries" "Rollouts" "short" [
      (query ''nixfleet_rollouts{state=~"scheduled|running|paused|reverting"}'' "{{state}}")
    ])
    (panel 3 "timeseries" "Processor" "percentunit" [
      (query ''1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[5m]))'' "{{instance}}")
    ])
    (panel 4 "timeseries" "Memory" "percentunit" [
      (query "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes" "{{instance}}")
    ])
    (panel 5 "timeseries" "Root file system" "percentunit" [
      (query ''1 - node_filesystem_avail_bytes{mountpoint="/"} / node_filesystem_size_bytes'' "{{instance}}")
    ])
    (panel 6 "table" "Failed units" "short" [
      (query ''node_systemd_unit_state{state="failed"} == 1'' "{{instance}} {{name}}")
    ])
    (panel 7 "timeseries" "Age of the last backup" "s" [
      (query ''time() - nixfleet_backup_last_event_timestamp_seconds{event="success"}'' "{{instance}} {{backup}}")
    ])
    (panel 8 "timeseries" "Requests a second" "reqps" [
      (query "sum by (listener) (rate(nixfleet_http_requests_total[5m]))" "{{listener}}")
    ])
    (panel 9 "timeseries" "Slowest of a hundred requests" "s" [
      (query "histogram_quantile(0.99, sum by (listener, le) (rate(nixfleet_http_request_duration_seconds_bucket[5m])))" "{{listener}}")
    ])
    (panel 10 "timeseries" "Messages of webhooks" "short" [
      (query "nixfleet_webhook_messages" "{{state}}")
    ])
    (panel 11 "table" "Alerts" "short" [
      (query ''ALERTS{alertstate="firing"}'' "{{alertname}} {{instance}}")
    ])
  ];
}
