# SPDX-License-Identifier: MIT
# Scope monitoring (NixOS): what the host measures about itself, for a Prometheus to fetch.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.monitoring;
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
      description = "Address that the exporter listens on. The firewall keeps it closed unless opened below.";
    };

    port = mkOption {
      type = types.port;
      default = 9100;
      description = "Port that the exporter listens on.";
    };

    collectors = mkOption {
      type = types.listOf types.str;
      default = [
        "processes"
        "systemd"
      ];
      example = [ "systemd" ];
      description = "Collectors beside those that the exporter runs by itself. Alerts on failed units need `systemd`.";
    };

    textfileDirectory = mkOption {
      type = types.nullOr types.str;
      default = "/var/lib/node-exporter-textfile";
      description = ''
        Directory whose `*.prom` files are served as well; other scopes leave their figures there, for example
        the age of the last backup. It belongs to root. Null turns the collector off.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether everyone may reach the exporter's port.";
    };

    openFirewallOn = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "wg0" ];
      description = "Network interfaces on which the exporter's port is open, for example the one of a VPN.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.textfileDirectory == null || lib.hasPrefix "/" cfg.textfileDirectory;
        message = "nixfleet.monitoring.textfileDirectory must be an absolute path, not \"${toString cfg.textfileDirectory}\". Write it with a leading slash, or null to turn the collector off.";
      }
    ];

    services.prometheus.exporters.node = {
      enable = lib.mkDefault true;
      listenAddress = lib.mkDefault cfg.listenAddress;
      port = lib.mkDefault cfg.port;
      enabledCollectors = cfg.collectors;
      openFirewall = lib.mkDefault cfg.openFirewall;
      extraFlags = lib.optional (
        cfg.textfileDirectory != null
      ) "--collector.textfile.directory=${cfg.textfileDirectory}";
    };

    networking.firewall.interfaces = lib.genAttrs cfg.openFirewallOn (_: {
      allowedTCPPorts = [ exporter.port ];
    });

    systemd.tmpfiles.settings.nixfleet-monitoring = lib.mkIf (cfg.textfileDirectory != null) {
      ${cfg.textfileDirectory}.d = {
        mode = "0755";
        user = "root";
        group = "root";
      };
    };
  };
}
