# SPDX-License-Identifier: MIT
# Off by default, because a tree of modules alone has not what it needs.
{ lib, ... }:
{
  documentation.nixos.enable = lib.mkDefault false; # nixos/doc
}
