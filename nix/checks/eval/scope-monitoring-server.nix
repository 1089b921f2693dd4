# SPDX-License-Identifier: MIT
# Scope monitoring-server: what is fetched from where, alerts, Alertmanager, Grafana.
# checks/real/alert-rules.sh tests the alert rules.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) fires host;
  scopes = import (root + "/nix/scopes");

  with' =
    settings:
    host [
      scopes.nixosModules.monitoring-server
      {
        nixfleet.monitoring-server = {
          enable = true;
        } // settings;
      }
    ];
  good = with' {
    nodes = [
      "web-01:9100"
      "web-02:9100"
    ];
    agents = [ "web-01:9101" ];
    controlPlane = {
      target = "cp-01:9443";
      caFile = "/etc/ca.crt";
      certificateFile = "/run/secrets/prometheus.crt";
      keyFile = "/run/secrets/prometheus.key";
    };
    alertmanager = {
      enable = true;
      settings = {
        route.receiver = "team";
        receivers = [ { name = "team"; } ];
      };
    };
    grafana = {
      enable = true;
      adminPasswordFile = "/run/secrets/grafana";
    };
  };
  inherit (good.config.services) prometheus grafana;
  scrape = name: lib.findFirst (job: job.job_name == name) null prometheus.scrapeConfigs;
  rules = (builtins.fromJSON (lib.head prometheus.rules)).groups;
  alerts = map (rule: rule.alert) (lib.concatMap (group: group.rules) rules);
  # Names after nixfleet_, except those of backups, which the backup scope measures.
  measured = builtins.readFile (root + "/controlplane/server/metrics.go");
  expressions =
    map (rule: rule.expr) (lib.concatMap (group: group.rules) rules)
    ++ map (target: target.expr) (
      lib.concatMap (panel: panel.targets)
        (builtins.fromJSON good.config.environment.etc."nixfleet/dashboards/nixfleet.json".text).panels
    );
  used = lib.filter (metric: !lib.hasPrefix "backup_" metric) (
    lib.concatMap (
      expression: map lib.head (lib.filter lib.isList (builtins.split "nixfleet_([a-z_]+)" expression))
    ) expressions
  );
  plain = with' { controlPlane.target = "127.0.0.1:9443"; };
  extended = with' {
    nodes = [ "web-01:9100" ];
    scrapeInterval = "15s";
    scrapeConfigs = [
      {
        job_name = "postgres";
        static_configs = [ { targets = [ "db-01:9187" ]; } ];
      }
    ];
    ruleGroups = [
      {
        name = "postgres";
        rules = [
          {
            alert = "PostgresDown";
            expr = "pg_up == 0";
          }
        ];
      }
    ];
  };
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "a fleet adds its own interval, targets and rules" = {
    expr = {
      inherit (extended) failedAssertions;
      interval = extended.config.services.prometheus.globalConfig.scrape_interval;
      jobs = map (job: job.job_name) extended.config.services.prometheus.scrapeConfigs;
      groups = map (group: group.name) (
        lib.concatMap (text: (builtins.fromJSON text).groups) (lib.tail extended.config.services.prometheus.rules)
      );
      otherwise = prometheus.globalConfig.scrape_interval;
    };
    expected = {
      failedAssertions = [ ];
      interval = "15s";
      jobs = [
        "node"
        "postgres"
      ];
      groups = [ "postgres" ];
      otherwise = null;
    };
  };
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.monitoring-server ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "metrics of every node are fetched" = {
    expr = (lib.head (scrape "node").static_configs).targets;
    expected = [
      "web-01:9100"
      "web-02:9100"
    ];
  };
  "metrics of every agent are fetched" = (lib.head (scrape "nixfleet-agent").static_configs).targets == [ "web-01:9101" ];
  "rules and dashboard use metrics that the control plane has" = {
    # A histogram has its name with an ending.
    expr = lib.filter (
      metric:
      !lib.hasInfix "desc(\"${metric}\"," measured
      && !lib.hasInfix "Name: \"nixfleet_${lib.removeSuffix "_bucket" metric}\"," measured
    ) used;
    expected = [ ];
  };
  "the control plane is scraped with a client certificate, its key by credential" =
    let
      job = scrape "nixfleet-control-plane";
    in
    job.scheme == "https"
    && job.tls_config.ca_file == "/run/credentials/prometheus.service/control-plane-ca"
    && job.tls_config.key_file == "/run/credentials/prometheus.service/control-plane-key"
    && good.config.systemd.services.prometheus.serviceConfig.LoadCredential == [
      "control-plane-ca:/etc/ca.crt"
      "control-plane-certificate:/run/secrets/prometheus.crt"
      "control-plane-key:/run/secrets/prometheus.key"
    ]
    && prometheus.checkConfig == "syntax-only";
  "without a certificate authority it is plain HTTP, checked in full" =
    let
      job = lib.head plain.config.services.prometheus.scrapeConfigs;
    in
    job.job_name == "nixfleet-control-plane" && job.scheme != "https" && plain.config.services.prometheus.checkConfig == true;
  "rules for machines, backups, the control plane and rollouts" = {
    expr = lib.subtractLists alerts [
      "MachineDown"
      "DiskAlmostFull"
      "BackupOverdue"
      "ControlPlaneDown"
      "RolloutPaused"
      "RolloutFailed"
      "MachineSilent"
    ];
    expected = [ ];
  };
  "alerts go to the Alertmanager on this host" =
    prometheus.alertmanager.enable
    && prometheus.alertmanager.listenAddress == "127.0.0.1"
    && (lib.head (lib.head prometheus.alertmanagers).static_configs).targets == [ "127.0.0.1:9093" ];
  "nothing listens to the network" =
    prometheus.listenAddress == "127.0.0.1"
    && grafana.settings.server.http_addr == "127.0.0.1"
    && good.config.networking.firewall.allowedTCPPorts == [ ];
  "Grafana knows Prometheus and shows the fleet" =
    let
      dashboard = builtins.fromJSON good.config.environment.etc."nixfleet/dashboards/nixfleet.json".text;
      source = lib.head grafana.provision.datasources.settings.datasources;
    in
    source.url == "http://127.0.0.1:9090"
    && lib.all (panel: panel.datasource.uid == source.uid) dashboard.panels
    && grafana.settings.security.admin_password == "$__file{/run/secrets/grafana}";
  "Grafana's key is its own, from a file that its first start makes" =
    grafana.settings.security.secret_key == "$__file{/var/lib/grafana/secret-key}"
    && lib.hasInfix "/var/lib/grafana/secret-key" good.config.systemd.services.grafana.preStart;
  "neither is on by default" = !plain.config.services.grafana.enable && !plain.config.services.prometheus.alertmanager.enable;

  "fires: a key without certificate" = fires "nixfleet.monitoring-server.controlPlane: keyFile and certificateFile go together" (
    with' { controlPlane.keyFile = "/run/k"; }
  );
  "fires: alerts without a receiver" = fires "alertmanager.settings has no receivers" (with' { alertmanager.enable = true; });
  "fires: Grafana's own password" = fires "nixfleet.monitoring-server.grafana.adminPasswordFile is not set" (
    with' { grafana.enable = true; }
  );
}
