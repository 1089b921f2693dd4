# SPDX-License-Identifier: MIT
# Scope remote-builders (NixOS): builds that other machines do. Both systems take the same options.
{
  _class = "nixos";

  imports = [ ./options/remote-builders.nix ];
}
