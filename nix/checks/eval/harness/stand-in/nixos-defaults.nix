# SPDX-License-Identifier: MIT
# Off by default, because a tree of modules alone does not have what these need.
{ lib, ... }:
{
  documentation.nixos.enable = lib.mkDefault false; # nixos/doc
}
