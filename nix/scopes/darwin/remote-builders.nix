# SPDX-License-Identifier: MIT
# Scope remote-builders (nix-darwin): builds on other machines. Both systems have the same options.
{
  _class = "darwin";

  imports = [ ../options/remote-builders.nix ];
}
