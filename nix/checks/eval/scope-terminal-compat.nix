# SPDX-License-Identifier: MIT
# Scope terminal-compat: sessions from terminals that the host does not know.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) host;
  scopes = import (root + "/nix/scopes");

  with' =
    settings: module:
    host [
      scopes.nixosModules.terminal-compat
      {
        nixfleet.terminal-compat = {
          enable = true;
        } // settings;
      }
      module
    ];
  good = with' { } { };
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.terminal-compat ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "terminal descriptions are a choice" =
    !good.config.environment.enableAllTerminfo && (with' { allTerminfo = true; } { }).config.environment.enableAllTerminfo;
  "bash falls back to a terminal that is known" =
    lib.hasInfix "export TERM=xterm-256color" (lib.replaceStrings [ "'" ] [ "" ] good.config.environment.interactiveShellInit)
    && lib.hasInfix "export TERM=" good.config.environment.etc.bashrc.text;
  "TERM can stay unchanged" =
    !(lib.hasInfix "infocmp" (with' { fallback = null; } { }).config.environment.interactiveShellInit);
}
