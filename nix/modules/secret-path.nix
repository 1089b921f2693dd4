# SPDX-License-Identifier: MIT
# The type of options that name a secret: a file on the host, outside the world-readable store.
{ lib }:
lib.types.addCheck (lib.types.strMatching "/.+") (file: !lib.hasPrefix builtins.storeDir file)
// {
  description = "absolute path of a file outside the Nix store, as a string";
}
