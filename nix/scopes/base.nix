# SPDX-License-Identifier: MIT
# Scope base (NixOS): the command line tools an operator expects on every machine.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.nixfleet.base;
in
{
  _class = "nixos";

  imports = [ ./options/base.nix ];

  options.nixfleet.base.hardwareTools = lib.mkOption {
    type = lib.types.bool;
    default = !config.boot.isContainer;
    defaultText = lib.literalExpression "!config.boot.isContainer";
    description = ''
      Whether to install the tools that look at hardware and networks as well: dig, ethtool, lspci, lsusb
      and tcpdump.
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

    # Without flakes a machine cannot evaluate the configuration that it was built from.
    nix.settings.experimental-features = lib.mkDefault [
      "nix-command"
      "flakes"
    ];
  };
}
