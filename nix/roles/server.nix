# SPDX-License-Identifier: MIT
# Role server: a machine that runs services and has no local user.
# Importing a role enables it; every choice is a default that the host can override.
{
  config,
  lib,
  options,
  ...
}:
let
  headless =
    !config.services.xserver.enable
    && !(config.services.displayManager.enable or false)
    && !config.services.greetd.enable
    && !config.boot.isContainer;
  inherit (import ../lib/priorities.nix lib) suggest;
in
{
  _class = "nixos";

  imports = [
    ../platforms/nixos-base.nix
    ../scopes/base.nix
    ../scopes/firewall.nix
    ../scopes/generation-label.nix
    ../scopes/hardware.nix
    ../scopes/impermanence.nix
    ../scopes/monitoring.nix
    ../scopes/o11y.nix
    ../scopes/operators.nix
    ../scopes/secrets.nix
    ../scopes/terminal-compat.nix
  ];

  options.nixfleet.roles.server.enable = lib.mkOption {
    type = lib.types.bool;
    default = true;
    description = "Whether to apply the role server to this host. Importing the role is enough; false disables it.";
  };

  config = lib.mkIf config.nixfleet.roles.server.enable {
    nixfleet = {
      nixos-base.enable = suggest true;
      base.enable = suggest true;
      firewall.enable = suggest true;
      hardware.enable = suggest true;
      monitoring.enable = suggest true;
      o11y.enable = suggest true;
      operators.enable = suggest true;
      secrets.enable = suggest true;
      terminal-compat.enable = suggest true;
      # impermanence and generation-label are imported but off: a disk template that is made for the former
      # enables it; the latter would change every system with every commit.
    };

    # A machine that no one sits at: after a failure it goes on booting, or starts anew, instead of waiting at
    # its console.
    systemd = lib.mkIf headless (
      {
        enableEmergencyMode = suggest false;
      }
      // (
        # Since NixOS 25.11.
        if options ? systemd.settings.Manager then
          {
            settings.Manager = {
              RuntimeWatchdogSec = suggest "30s";
              RebootWatchdogSec = suggest "10min";
            };
          }
        else
          {
            watchdog = {
              runtimeTime = suggest "30s";
              rebootTime = suggest "10min";
            };
          }
      )
    );
  };
}
