# SPDX-License-Identifier: MIT
# darwinModules.default: the modules that mkHost adds to every Mac. They change nothing until they are
# enabled.
{
  _class = "darwin";
  imports = [
    ./core/darwin.nix
    ./agent/darwin.nix
    ./cache.nix
  ];
}
