# SPDX-License-Identifier: MIT
# The two priorities with which scopes, roles and mkHost set options of NixOS and nix-darwin. A lower number
# wins; two definitions of one number must agree, or the host does not evaluate:
#
#   100   a plain assignment
#   900   chosen: what the user gave as an argument of mkHost, or in an option of NixFleet
#   1000  lib.mkDefault: NixOS itself, and the profiles that a fleet imports from elsewhere
#   1100  a disk template, which the host chose: the boot loader that its partitions need
#   1200  suggest: what NixFleet adds to a host that says nothing
#   1500  the default of the option itself
#
# With mkDefault, a scope and another profile that prefer two values would collide.
lib:
let
  suggest = lib.mkOverride 1200;
in
{
  inherit suggest;
  chosen = lib.mkOverride 900;

  # A section of a unit. A list stays plain, so that the user's own adds to it and does not replace it.
  suggestSettings = lib.mapAttrs (
    _: value: if builtins.isList value then value else suggest value
  );
}
