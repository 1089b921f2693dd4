# SPDX-License-Identifier: MIT
# darwinModules.default: what mkHost gives every Mac. Nothing changes until it is enabled.
{
  _class = "darwin";
  imports = [
    ./core/darwin.nix
    ./agent/darwin.nix
    ./cache.nix
  ];
}
