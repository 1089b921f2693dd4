# SPDX-License-Identifier: MIT
# `import <nixpkgs> { ... }` of an assembled stand-in; becomes its default.nix.
{
  system ? null,
  localSystem ? null,
  crossSystem ? null,
  config ? { },
  overlays ? [ ],
  ...
}:
let
  lib = import ./lib;
  scanned = import ./names.nix;
  nameOf =
    platform:
    if platform == null || builtins.isString platform then
      platform
    else
      platform.system or (lib.systems.elaborate platform).system;
in
import ./stand-in {
  inherit lib config overlays;
  inherit (scanned) names units;
  path = ./.;
  system = lib.findFirst (name: name != null) (builtins.currentSystem or "x86_64-linux") [
    (nameOf crossSystem)
    (nameOf localSystem)
    system
  ];
}
