# SPDX-License-Identifier: MIT
# Scope base: tools and flakes on NixOS, nix-darwin and under home-manager.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) host onMac withInput;
  scopes = import (root + "/nix/scopes");

  has = name: packages: lib.any (package: lib.getName package == name) packages;
  plain = host [ ];
  imported = host [ scopes.nixosModules.base ];
  enabled = host [
    scopes.nixosModules.base
    { nixfleet.base.enable = true; }
  ];
  chosen = host [
    scopes.nixosModules.base
    (
      { pkgs, ... }:
      {
        nixfleet.base = {
          enable = true;
          packages = [ pkgs.hello ];
          hardwareTools = false;
        };
        nix.settings.experimental-features = [ "nix-command" ];
      }
    )
  ];
in
{
  "evaluates" = enabled.failedAssertions == [ ] && lib.hasSuffix ".drv" enabled.toplevel;
  "importing it changes nothing" = {
    expr = imported.toplevel;
    expected = plain.toplevel;
  };
  "git, jq and lspci are installed" = lib.all (name: has name enabled.config.environment.systemPackages) [
    "git"
    "jq"
    "pciutils"
  ];
  "a machine can evaluate its flake" = {
    expr = enabled.config.nix.settings.experimental-features;
    expected = [
      "nix-command"
      "flakes"
    ];
  };
  "the list of tools can be replaced" =
    has "hello" chosen.config.environment.systemPackages
    && !has "jq" chosen.config.environment.systemPackages
    && !has "pciutils" chosen.config.environment.systemPackages;
  "the host's own Nix features are kept" = {
    expr = chosen.config.nix.settings.experimental-features;
    expected = [ "nix-command" ];
  };
  "a Mac gets the same tools" =
    onMac
      [
        scopes.darwinModules.base
        { nixfleet.base.enable = true; }
      ]
      (mac: has "git" mac.config.environment.systemPackages && lib.hasInfix "darwin-system" mac.toplevel);
  "a home gets the same tools" = withInput "home-manager" (
    home-manager:
    has "jq"
      (host [
        home-manager.nixosModules.home-manager
        {
          users.users.alice.isNormalUser = true;
          home-manager.users.alice = {
            imports = [ scopes.homeModules.base ];
            nixfleet.base.enable = true;
            home.stateVersion = "24.05";
          };
        }
      ]).config.home-manager.users.alice.home.packages
  );
}
