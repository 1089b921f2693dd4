# SPDX-License-Identifier: MIT
# The one module of Nixpkgs' modules/generic that other projects import.
{ lib, ... }:
{
  options.meta.maintainers = lib.mkOption {
    type = lib.types.listOf lib.types.raw;
    default = [ ];
    description = "Ignored.";
  };
}
