# SPDX-License-Identifier: MIT
# Role workstation: a machine with a local user.
# Importing a role enables it; every choice is a default that the host can override.
{
  config,
  lib,
  options,
  ...
}:
let
  # A network that the host has declared is served without NetworkManager.
  hasNetwork =
    config.networking.useNetworkd
    || config.networking.wireless.networks != { }
    || config.networking.defaultGateway != null;
  inherit (import ../lib/priorities.nix lib) suggest;
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
    description = "Whether to apply the role workstation to this host. Importing the role is enough; false disables it.";
  };

  config = lib.mkIf config.nixfleet.roles.workstation.enable {
    nixfleet = {
      nixos-base.enable = suggest true;
      backup.enable = suggest true;
      base.enable = suggest true;
      firewall.enable = suggest true;
      hardware.enable = suggest true;
      o11y.enable = suggest true;
      operators.enable = suggest true;
      secrets.enable = suggest true;
      terminal-compat.enable = suggest true;
      # If the fleet has home-manager.
      home-manager.enable = suggest (options ? home-manager);
      hardware.bluetooth.enable = suggest true;
      # impermanence and generation-label are imported but off: a disk template that is made for the former
      # enables it; the latter would change every system with every commit.
    };

    # The local user chooses the networks.
    networking.networkmanager.enable = lib.mkIf (!hasNetwork) (suggest true);
    # That of a virtual machine is its host's.
    services.fwupd.enable = lib.mkIf config.nixfleet.hardware.firmware (suggest true);
  };
}
