# SPDX-License-Identifier: MIT
# nixosModules.default: what mkHost gives every NixOS host. Nothing changes until it is enabled.
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
