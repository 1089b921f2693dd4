# SPDX-License-Identifier: MIT
# nixosModules.default: the modules that mkHost adds to every NixOS host. They change nothing until
# they are enabled.
{
  _class = "nixos";
  imports = [
    ./core/nixos.nix
    ./agent/nixos.nix
    ./control-plane
    ./cache-server.nix
    ./cache.nix
  ];
}
