# SPDX-License-Identifier: MIT
# Part of scope monitoring-server: Grafana with Prometheus as source and a dashboard of the fleet.
{ config, lib, ... }:
let
  server = config.nixfleet.monitoring-server;
  cfg = server.grafana;
  inherit (import ../../lib/priorities.nix lib) chosen suggest;
  ownKey = "${config.services.grafana.dataDir}/secret-key";
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
    secretKeyFile = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      example = "/run/agenix/grafana-key";
      description = ''
        File with the key that encrypts the passwords in Grafana's database, readable by `grafana`. Null:
        Grafana's data directory holds one, which the first start generates. With a database from before,
        it is the key that all Grafanas had.
      '';
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
      enable = suggest true;
      settings.server.http_addr = suggest "127.0.0.1";
      settings.security.admin_password = chosen "$__file{${toString cfg.adminPasswordFile}}";
      # NixOS 26.05 and later have no default.
      settings.security.secret_key = suggest "$__file{${
        if cfg.secretKeyFile == null then ownKey else cfg.secretKeyFile
      }}";
      provision = {
        enable = suggest true;
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
    systemd.services.grafana.preStart = lib.mkIf (cfg.secretKeyFile == null) ''
      key=${lib.escapeShellArg ownKey}
      if [ ! -s "$key" ]; then
        if [ -e ${lib.escapeShellArg config.services.grafana.dataDir}/data/grafana.db ]; then
          secret=SW2YcwTIb9zpOOhoPsMm
        else
          secret=$(head -c 32 /dev/urandom | base64 --wrap 0)
        fi
        (umask 077 && printf %s "$secret" >"$key.new" && mv "$key.new" "$key")
      fi
    '';
    environment.etc."nixfleet/dashboards/nixfleet.json".text =
      builtins.toJSON (import ./dashboard.nix);
  };
}
