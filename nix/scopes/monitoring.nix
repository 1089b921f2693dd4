# SPDX-License-Identifier: MIT
# Scope monitoring (NixOS): metrics of the host itself, for a Prometheus to fetch.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.monitoring;
  inherit (import ../lib/priorities.nix lib) suggest;
  exporter = config.services.prometheus.exporters.node;
in
{
  _class = "nixos";

  options.nixfleet.monitoring = {
    enable = lib.mkEnableOption "the Prometheus node exporter";

    listenAddress = mkOption {
      type = types.str;
      default = "0.0.0.0";
      example = "10.0.0.5";
      description = "Address on which the exporter listens. The firewall blocks it unless `openFirewall` or `openFirewallOn` opens it.";
    };

    port = mkOption {
      type = types.port;
      default = 9100;
      description = "Port on which the exporter listens.";
    };

    collectors = mkOption {
      type = types.listOf types.str;
      default = [
        "processes"
        "systemd"
      ];
      example = [ "systemd" ];
      description = "Collectors to run in addition to the exporter's defaults. Alerts on failed units need `systemd`.";
    };

    textfileDirectory = mkOption {
      type = types.nullOr types.str;
      default = "/var/lib/node-exporter-textfile";
      description = ''
        Directory whose `*.prom` files the exporter also serves. Other scopes write metrics there, for example
        the time of the last backup. root owns it. Null disables the collector.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the exporter's port on all interfaces.";
    };

    openFirewallOn = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "wg0" ];
      description = "Network interfaces on which to open the exporter's port, for example that of a VPN.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.textfileDirectory == null || lib.hasPrefix "/" cfg.textfileDirectory;
        message = "nixfleet.monitoring.textfileDirectory must be an absolute path, not \"${toString cfg.textfileDirectory}\". Write it with a leading slash, or use null to disable the collector.";
      }
    ];

    services.prometheus.exporters.node = {
      enable = suggest true;
      listenAddress = suggest cfg.listenAddress;
      port = suggest cfg.port;
      enabledCollectors = cfg.collectors;
      openFirewall = suggest cfg.openFirewall;
      extraFlags = lib.optional (
        cfg.textfileDirectory != null
      ) "--collector.textfile.directory=${cfg.textfileDirectory}";
    };

    networking.firewall.interfaces = lib.genAttrs cfg.openFirewallOn (_: {
      allowedTCPPorts = [ exporter.port ];
    });

    systemd.tmpfiles.settings.nixfleet-monitoring = lib.mkIf (cfg.textfileDirectory != null) {
      ${cfg.textfileDirectory}.d = {
        mode = suggest "0755";
        user = suggest "root";
        group = suggest "root";
      };
    };
  };
}
