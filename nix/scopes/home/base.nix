# SPDX-License-Identifier: MIT
# Scope base (home-manager): the same tools, for a user on a machine that NixFleet does not manage.
{ config, lib, ... }:
let
  cfg = config.nixfleet.base;
in
{
  _class = "homeManager";

  imports = [ ../options/base.nix ];

  config = lib.mkIf cfg.enable { home.packages = cfg.packages; };
}
