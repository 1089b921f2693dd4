# SPDX-License-Identifier: MIT
# Scope remote-builders (NixOS): builds on other machines. Both systems have the same options.
{
  _class = "nixos";

  imports = [ ./options/remote-builders.nix ];
}
