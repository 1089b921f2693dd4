# SPDX-License-Identifier: MIT
# Scope home-manager: homes built with the system.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) fires host onMac withInput;
  scopes = import (root + "/nix/scopes");

  with' =
    settings: module:
    host [
      scopes.nixosModules.home-manager
      {
        nixfleet.home-manager = {
          enable = true;
        } // settings;
      }
      module
    ];
  homes = withInput "home-manager" (home-manager: {
    nixos = with' {
      user = "alice";
      modules = [ { home.sessionVariables.EDITOR = "vim"; } ];
    } {
      imports = [ home-manager.nixosModules.home-manager ];
      users.users.alice.isNormalUser = true;
    };
  });
  on = test: if homes ? skip then homes else test homes.nixos;
in
{
  "evaluates" = on (good: good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel);
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.home-manager ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "homes use the system's packages and keep files that are in the way" = on (good: {
    expr = {
      inherit (good.config.home-manager) useGlobalPkgs useUserPackages backupFileExtension;
    };
    expected = {
      useGlobalPkgs = true;
      useUserPackages = true;
      backupFileExtension = "before-home-manager";
    };
  });
  "homes that the host has already keep their packages where they are" = withInput "home-manager" (
    home-manager:
    !(with' { } {
      imports = [ home-manager.nixosModules.home-manager ];
      users.users.carol.isNormalUser = true;
      home-manager.users.carol.nixpkgs.config.allowUnfree = true;
    }).config.home-manager.useGlobalPkgs
  );
  "the user has a home, with the shared modules and the system's state version" = on (
    good:
    good.config.home-manager.users.alice.home.sessionVariables.EDITOR == "vim"
    && good.config.home-manager.users.alice.home.stateVersion == "24.11"
  );
  "the user is the operators' primary user" = {
    expr =
      (host [
        scopes.nixosModules.home-manager
        scopes.nixosModules.operators
        { nixfleet.operators.primaryUser = "carol"; }
      ]).config.nixfleet.home-manager.user;
    expected = "carol";
  };
  "fires: home-manager is not imported" = fires "Add home-manager.nixosModules.home-manager" (with' { } { });
  "a Mac: fires: home-manager is not imported" =
    onMac
      [
        scopes.darwinModules.home-manager
        { nixfleet.home-manager.enable = true; }
      ]
      (fires "Add home-manager.darwinModules.home-manager");
  "a Mac has homes" = withInput "home-manager" (
    home-manager:
    onMac
      [
        scopes.darwinModules.home-manager
        home-manager.darwinModules.home-manager
        {
          users.users.alice.home = "/Users/alice";
          nixfleet.home-manager = {
            enable = true;
            user = "alice";
            stateVersion = "24.05";
          };
        }
      ]
      (mac: mac.config.home-manager.users.alice.home.homeDirectory == "/Users/alice")
  );
}
