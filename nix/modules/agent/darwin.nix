# SPDX-License-Identifier: MIT
# The agent and its watchdog as launchd daemons. They run as root: they set the system profile and
# start the activation.
{ config, lib, ... }:
let
  cfg = config.services.nixfleet-agent;
  inherit (import ../../lib/priorities.nix lib) suggestSettings;
  program = lib.getExe cfg.package;

  daemon = name: extra: {
    path = [
      # Where another installer owns Nix, its own profile has it.
      (if config.nix.enable or true then config.nix.package else "/nix/var/nix/profiles/default/bin")
      "/usr/bin"
      "/bin"
      "/usr/sbin"
      "/sbin"
    ];
    environment.NIX_REMOTE = "daemon";
    serviceConfig = {
      # The agent finds its own daemon by this label. Before it activates a system, it looks there for
      # the watchdog's label.
      Label = "org.nixfleet.${name}";
      # Without the usual shell that waits for the store: the agent compares this program with its own
      # to know whether a new agent takes over. Until the store is mounted, launchd tries again.
      ProgramArguments = [
        program
        (if name == "agent" then "run" else name)
        "--config"
        "/etc/nixfleet/agent.toml"
      ];
    }
    // suggestSettings (
      {
        ProcessType = "Background";
        # An activation reloads this daemon; processes that it started must continue to run.
        AbandonProcessGroup = true;
        StandardOutPath = "/var/log/nixfleet-${name}.log";
        StandardErrorPath = "/var/log/nixfleet-${name}.log";
      }
      // extra
    );
  };
in
{
  _class = "darwin";
  imports = [ ./shared.nix ];

  config = lib.mkIf cfg.enable {
    services.nixfleet-agent.settings.identity = lib.mapAttrs (_: lib.mkDefault) (
      lib.filterAttrs (_: file: file != null) cfg.identity
    );

    launchd.daemons.nixfleet-agent = daemon "agent" {
      KeepAlive = true;
      RunAtLoad = true;
      ThrottleInterval = 5;
    };

    launchd.daemons.nixfleet-watchdog = daemon "watchdog" { StartInterval = 10; };

    assertions = [
      {
        assertion = cfg.healthChecks.systemd == { };
        message = "services.nixfleet-agent.healthChecks.systemd is for NixOS; use healthChecks.launchd on macOS.";
      }
    ];
  };
}
