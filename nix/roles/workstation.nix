# SPDX-License-Identifier: MIT
# Role workstation: a machine that somebody sits at.
# Importing a role is taking it; every choice is a default that the host can override.
{
  config,
  lib,
  options,
  ...
}:
let
  inherit (lib) mkDefault;
in
{
  _class = "nixos";

  imports = [
    ../platforms/nixos-base.nix
    ../scopes/backup.nix
    ../scopes/base.nix
    ../scopes/firewall.nix
    ../scopes/generation-label.nix
    ../scopes/hardware.nix
    ../scopes/home-manager.nix
    ../scopes/impermanence.nix
    ../scopes/o11y.nix
    ../scopes/operators.nix
    ../scopes/secrets.nix
    ../scopes/terminal-compat.nix
  ];

  options.nixfleet.roles.workstation.enable = lib.mkOption {
    type = lib.types.bool;
    default = true;
    description = "Whether this host is what the role workstation makes of it. Importing the role is enough; false takes it back.";
  };

  config = lib.mkIf config.nixfleet.roles.workstation.enable {
    nixfleet = {
      nixos-base.enable = mkDefault true;
      backup.enable = mkDefault true;
      base.enable = mkDefault true;
      firewall.enable = mkDefault true;
      hardware.enable = mkDefault true;
      o11y.enable = mkDefault true;
      operators.enable = mkDefault true;
      secrets.enable = mkDefault true;
      terminal-compat.enable = mkDefault true;
      # Where the fleet has home-manager.
      home-manager.enable = mkDefault (options ? home-manager);
      hardware.bluetooth.enable = mkDefault true;
      # impermanence and generation-label are at hand but off: the former comes on with a disk template that
      # is made for it, the latter would change every system with every commit.
    };

    # Networks are chosen by who sits there.
    networking.networkmanager.enable = mkDefault true;
    services.fwupd.enable = mkDefault true;
  };
}
