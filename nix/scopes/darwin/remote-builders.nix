# SPDX-License-Identifier: MIT
# Scope remote-builders (nix-darwin): builds that other machines do. Both systems take the same options.
{
  _class = "darwin";

  imports = [ ../options/remote-builders.nix ];
}
