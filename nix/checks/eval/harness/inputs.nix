# SPDX-License-Identifier: MIT
# Flakes that fleets use in addition to Nixpkgs, from a folder in which each is unpacked under its own
# name; null for one that is missing. Their own inputs are not fetched: the use of an input that only a
# flake's packages need is an error that names it.
{
  lib,
  nixpkgs,
  folder,
}:
let
  outputsOf =
    name: directory:
    let
      flake = import (directory + "/flake.nix");
      missing = input: throw "the flake ${name} was evaluated without its input ${input}";
      inputs = lib.mapAttrs (input: _: missing input) (builtins.functionArgs flake.outputs);
      self =
        flake.outputs (inputs // { inherit self; } // lib.optionalAttrs (inputs ? nixpkgs) { inherit nixpkgs; })
        // {
          outPath = toString directory;
        };
    in
    self;

  # These use flake libraries that are not in the folder, so their modules are imported by path.
  lanzabooteOf = directory: {
    outPath = toString directory;
    nixosModules.lanzaboote = {
      imports = [ (directory + "/nix/modules/lanzaboote.nix") ];
      boot.lanzaboote.package = lib.mkDefault nixpkgs.legacyPackages.x86_64-linux.hello;
    };
  };
  microvmOf = directory: {
    outPath = toString directory;
    nixosModules = lib.genAttrs [ "host" "microvm" ] (name: directory + "/nixos-modules/${name}");
  };

  at =
    load: name:
    let
      directory = folder + "/${name}";
    in
    if folder != null && builtins.pathExists (directory + "/flake.nix") then load directory else null;
  flake = name: at (outputsOf name) name;
in
{
  agenix = flake "agenix";
  disko = flake "disko";
  home-manager = flake "home-manager";
  impermanence = flake "impermanence";
  lanzaboote = at lanzabooteOf "lanzaboote";
  microvm = at microvmOf "microvm.nix";
  sops-nix = flake "sops-nix";
}
