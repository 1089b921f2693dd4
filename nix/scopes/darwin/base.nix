# SPDX-License-Identifier: MIT
# Scope base (nix-darwin): the command line tools that an operator expects on every machine.
{ config, lib, ... }:
let
  cfg = config.nixfleet.base;
  inherit (import ../../lib/priorities.nix lib) suggest;
in
{
  _class = "darwin";

  imports = [ ../options/base.nix ];

  config = lib.mkIf cfg.enable {
    environment.systemPackages = cfg.packages;
    # Where another installer owns Nix, it also sets this.
    nix.settings = lib.mkIf (config.nix.enable or true) {
      experimental-features = suggest [
        "nix-command"
        "flakes"
      ];
    };
  };
}
