# SPDX-License-Identifier: MIT
# The arguments of evaluation tests: whole NixOS and nix-darwin systems, evaluated by the real
# module trees, from a Nixpkgs or from the stand-in that assemble.sh makes.
{
  # A Nixpkgs: path.
  nixpkgs,
  # A nix-darwin: path or null, and the Nixpkgs to use with it.
  darwin ? null,
  darwinNixpkgs ? nixpkgs,
  # A folder of more flakes (inputs.nix), or null.
  inputs ? null,
}:
let
  flakeOf =
    path:
    let
      self = (import (path + "/flake.nix")).outputs { inherit self; } // {
        outPath = toString path;
      };
    in
    self;
  flake = flakeOf nixpkgs;
  darwinFlake = flakeOf darwinNixpkgs;
  inherit (flake) lib;

  # The values that tests use. They are evaluated lazily.
  view =
    evaluation:
    evaluation
    // {
      failedAssertions = map (assertion: assertion.message) (
        lib.filter (assertion: !assertion.assertion) evaluation.config.assertions
      );
      inherit (evaluation.config) warnings;
      # drvPath forces everything that the system depends on.
      toplevel = evaluation.config.system.build.toplevel.drvPath;
    };

  nixosSystem =
    {
      modules,
      specialArgs ? { },
      system ? "x86_64-linux",
    }:
    flake.lib.nixosSystem {
      inherit specialArgs;
      modules = modules ++ [ { nixpkgs.hostPlatform = lib.mkDefault system; } ];
    };

  darwinSystem =
    {
      modules,
      specialArgs ? { },
      system ? "aarch64-darwin",
      ...
    }:
    import (darwin + "/eval-config.nix") {
      inherit specialArgs;
      inherit (darwinFlake) lib;
      enableNixpkgsReleaseCheck = false;
      modules = modules ++ [
        {
          nixpkgs.hostPlatform = lib.mkDefault system;
          nixpkgs.source = lib.mkDefault darwinNixpkgs;
          documentation.enable = lib.mkDefault false;
          system.tools.darwin-uninstaller.enable = lib.mkDefault false;
        }
      ];
    };
in
{
  # As flakes, the way a fleet has them among its inputs.
  nixpkgs = flake;
  nix-darwin =
    if darwin == null then
      null
    else
      {
        outPath = toString darwin;
        lib = { inherit darwinSystem; };
      };
  inputs = import ./inputs.nix {
    inherit lib;
    nixpkgs = flake;
    folder = inputs;
  };

  inherit lib view;
  pkgs = flake.legacyPackages.x86_64-linux;

  nixos = args: view (nixosSystem args);
  darwin = if darwin == null then null else args: view (darwinSystem args);
}
