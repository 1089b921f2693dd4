# SPDX-License-Identifier: MIT
# Scope base (nix-darwin): the command line tools that an operator expects on every machine.
{ config, lib, ... }:
let
  cfg = config.nixfleet.base;
in
{
  _class = "darwin";

  imports = [ ../options/base.nix ];

  config = lib.mkIf cfg.enable {
    environment.systemPackages = cfg.packages;
    nix.settings.experimental-features = lib.mkDefault [
      "nix-command"
      "flakes"
    ];
  };
}
