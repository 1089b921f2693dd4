# SPDX-License-Identifier: MIT
# Part of scope monitoring-server: what a fleet fetches and watches besides NixFleet's own.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.monitoring-server;
  inherit (import ../../lib/priorities.nix lib) chosen;
in
{
  _class = "nixos";

  options.nixfleet.monitoring-server = {
    scrapeInterval = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "15s";
      description = "How often metrics are fetched, as a duration of Prometheus. Null: its own default, a minute.";
    };

    scrapeConfigs = mkOption {
      type = types.listOf (types.attrsOf types.anything);
      default = [ ];
      example = lib.literalExpression ''
        [
          {
            job_name = "postgres";
            static_configs = [ { targets = [ "db-01.example.org:9187" ]; } ];
          }
        ]
      '';
      description = "What to fetch besides, as `scrape_configs` of Prometheus.";
    };

    ruleGroups = mkOption {
      type = types.listOf (types.attrsOf types.anything);
      default = [ ];
      example = lib.literalExpression ''
        [
          {
            name = "postgres";
            rules = [
              {
                alert = "PostgresDown";
                expr = "pg_up == 0";
                for = "5m";
              }
            ];
          }
        ]
      '';
      description = "Alert and recording rules besides those of the scope, as `groups` of a rule file of Prometheus.";
    };
  };

  config.services.prometheus = lib.mkIf cfg.enable {
    globalConfig.scrape_interval = lib.mkIf (cfg.scrapeInterval != null) (chosen cfg.scrapeInterval);
    scrapeConfigs = lib.mkAfter cfg.scrapeConfigs;
    rules = lib.mkIf (cfg.ruleGroups != [ ]) (
      lib.mkAfter [ (builtins.toJSON { groups = cfg.ruleGroups; }) ]
    );
  };
}
