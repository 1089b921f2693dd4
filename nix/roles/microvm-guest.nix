# SPDX-License-Identifier: MIT
# Role microvm-guest: a guest of microvm.nix, whose host provides kernel, boot and disks.
# Importing a role enables it; every choice is a default that the host can override.
{
  config,
  lib,
  ...
}:
let
  # A gateway that the host declares, perhaps without the interface that networkd needs to know.
  hasNetwork = config.networking.defaultGateway != null;
  inherit (import ../lib/priorities.nix lib) suggest;
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
      nixos-base.enable = suggest true;
      base.enable = suggest true;
      operators.enable = suggest true;
      # The host boots the guest's kernel directly.
      nixos-base.bootLoader = suggest false;
      # impermanence is imported but off: it needs a share or volume for what is kept.
    };

    networking.useNetworkd = lib.mkIf (!hasNetwork) (suggest true);
    systemd.network.networks."20-uplink" = lib.mkIf (!hasNetwork) {
      matchConfig.Type = suggest "ether";
      networkConfig.DHCP = suggest "yes";
    };
  };
}
