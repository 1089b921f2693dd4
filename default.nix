# SPDX-License-Identifier: MIT
# The same as flake.nix for Nix without flakes:
#   nixfleet = import (fetchTarball "...") { inherit pkgs; };
#   imports = [ nixfleet.nixosModules.agent ];
{
  pkgs ? import <nixpkgs> { },
}:
let
  modules = import ./nix/modules;
  scopes = import ./nix/scopes;

  # Nixpkgs as mkHost wants it: what a flake input has.
  nixpkgs = {
    outPath = toString pkgs.path;
    lib = pkgs.lib // {
      nixosSystem = args: import (pkgs.path + "/nixos/lib/eval-config.nix") ({ system = null; } // args);
    };
  };
in
{
  lib = import ./nix/lib { inherit nixpkgs; };
  nixosModules = modules.nixosModules // scopes.nixosModules;
  darwinModules = modules.darwinModules // scopes.darwinModules;
  inherit (scopes) homeModules scopes;
  overlays.default = import ./nix/packages/overlay.nix;
  packages = import ./nix/packages { inherit pkgs; };
}
