# SPDX-License-Identifier: MIT
# Scope base (NixOS): the command line tools that an operator expects on every machine.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.nixfleet.base;
  inherit (import ../lib/priorities.nix lib) suggest;
in
{
  _class = "nixos";

  imports = [ ./options/base.nix ];

  options.nixfleet.base.hardwareTools = lib.mkOption {
    type = lib.types.bool;
    default = !config.boot.isContainer;
    defaultText = lib.literalExpression "!config.boot.isContainer";
    description = ''
      Whether to also install tools for hardware and networks: dig, ethtool, lspci, lsusb and tcpdump.
    '';
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages =
      cfg.packages
      ++ lib.optionals cfg.hardwareTools [
        pkgs.dnsutils
        pkgs.ethtool
        pkgs.pciutils
        pkgs.tcpdump
        pkgs.usbutils
      ];

    # Without flakes, a machine cannot evaluate its own configuration.
    nix.settings.experimental-features = suggest [
      "nix-command"
      "flakes"
    ];
  };
}
