# SPDX-License-Identifier: MIT
# Role microvm-guest: a guest of microvm.nix, whose host provides kernel, boot and disks.
# Importing a role enables it; every choice is a default that the host can override.
{
  config,
  lib,
  ...
}:
let
  inherit (lib) mkDefault;
in
{
  _class = "nixos";

  imports = [
    ../platforms/nixos-base.nix
    ../scopes/base.nix
    ../scopes/impermanence.nix
    ../scopes/operators.nix
  ];

  options.nixfleet.roles.microvm-guest.enable = lib.mkOption {
    type = lib.types.bool;
    default = true;
    description = "Whether to apply the role microvm-guest to this host. Importing the role is enough; false disables it.";
  };

  config = lib.mkIf config.nixfleet.roles.microvm-guest.enable {
    nixfleet = {
      nixos-base.enable = mkDefault true;
      base.enable = mkDefault true;
      operators.enable = mkDefault true;
      # The host boots the guest's kernel directly.
      nixos-base.bootLoader = mkDefault false;
      # impermanence is imported but off: it needs a share or volume for what is kept.
    };

    networking.useNetworkd = mkDefault true;
    systemd.network.networks."20-uplink" = {
      matchConfig.Type = "ether";
      networkConfig.DHCP = mkDefault "yes";
    };
  };
}
