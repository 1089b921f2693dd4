# SPDX-License-Identifier: MIT
# Part of scope monitoring-server: Grafana with Prometheus as source and a dashboard of the fleet.
{ config, lib, ... }:
let
  server = config.nixfleet.monitoring-server;
  cfg = server.grafana;
in
{
  _class = "nixos";

  options.nixfleet.monitoring-server.grafana = {
    enable = lib.mkEnableOption "Grafana on this host, with Prometheus as source and a dashboard of the fleet";
    adminPasswordFile = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      example = "/run/agenix/grafana";
      description = "File with the password of the user `admin`, readable by `grafana`.";
    };
  };

  config = lib.mkIf (server.enable && cfg.enable) {
    assertions = [
      {
        assertion = cfg.adminPasswordFile != null;
        message = "nixfleet.monitoring-server.grafana.adminPasswordFile is not set, and Grafana's default password is admin. Give the path of a file with a password.";
      }
    ];

    services.grafana = {
      enable = lib.mkDefault true;
      settings.server.http_addr = lib.mkDefault "127.0.0.1";
      settings.security.admin_password = lib.mkDefault "$__file{${toString cfg.adminPasswordFile}}";
      provision = {
        enable = lib.mkDefault true;
        datasources.settings.datasources = [
          {
            name = "Prometheus";
            uid = "nixfleet-prometheus";
            type = "prometheus";
            url = "http://127.0.0.1:${toString config.services.prometheus.port}";
          }
        ];
        dashboards.settings.providers = [
          {
            name = "NixFleet";
            options.path = "/etc/nixfleet/dashboards";
          }
        ];
      };
    };
    environment.etc."nixfleet/dashboards/nixfleet.json".text =
      builtins.toJSON (import ./dashboard.nix);
  };
}
