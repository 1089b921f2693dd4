# SPDX-License-Identifier: MIT
# The agent and its watchdog as launchd daemons, which run as root: they set the system profile and
# start the activation.
{ config, lib, ... }:
let
  cfg = config.services.nixfleet-agent;
  program = lib.getExe cfg.package;

  daemon = arguments: extra: {
    command = "${program} ${arguments} --config /etc/nixfleet/agent.toml";
    path = [
      config.nix.package
      "/usr/bin"
      "/bin"
      "/usr/sbin"
      "/sbin"
    ];
    environment.NIX_REMOTE = "daemon";
    serviceConfig = {
      ProcessType = "Background";
      # An activation reloads this daemon; what the daemon started must live on.
      AbandonProcessGroup = true;
    } // extra;
  };
in
{
  _class = "darwin";
  imports = [ ./shared.nix ];

  config = lib.mkIf cfg.enable {
    services.nixfleet-agent.settings.identity = lib.mapAttrs (_: lib.mkDefault) (
      lib.filterAttrs (_: file: file != null) cfg.identity
    );

    launchd.daemons.nixfleet-agent = daemon "run" {
      KeepAlive = true;
      RunAtLoad = true;
      ThrottleInterval = 5;
      StandardOutPath = "/var/log/nixfleet-agent.log";
      StandardErrorPath = "/var/log/nixfleet-agent.log";
    };

    launchd.daemons.nixfleet-watchdog = daemon "watchdog" {
      StartInterval = 10;
      StandardOutPath = "/var/log/nixfleet-watchdog.log";
      StandardErrorPath = "/var/log/nixfleet-watchdog.log";
    };

    assertions = [
      {
        assertion = cfg.healthChecks.systemd == { };
        message = "services.nixfleet-agent.healthChecks.systemd is for NixOS; use healthChecks.launchd on macOS.";
      }
    ];
  };
}
