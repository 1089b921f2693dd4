# SPDX-License-Identifier: MIT
# The modules by name. Every value is a path, so that a module that is imported twice counts once.
{
  nixosModules = {
    default = ./nixos.nix;
    core = ./core/nixos.nix;
    agent = ./agent/nixos.nix;
    control-plane = ./control-plane;
    cache = ./cache.nix;
    cache-server = ./cache-server.nix;
    microvm-host = ./microvm-host.nix;
  };
  darwinModules = {
    default = ./darwin.nix;
    core = ./core/darwin.nix;
    agent = ./agent/darwin.nix;
    cache = ./cache.nix;
  };
}
