# SPDX-License-Identifier: MIT
# Scope generation-label: the fleet's revision in the boot menu, only when it is enabled.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) fires host;
  scopes = import (root + "/nix/scopes");

  with' =
    settings: module:
    host [
      scopes.nixosModules.generation-label
      {
        nixfleet.generation-label = {
          enable = true;
        } // settings;
      }
      module
    ];
  revision = "0123456789abcdef0123456789abcdef01234567";
  good = with' { inherit revision; } { };
  dirty = with' { revision = "${revision}-dirty"; } { system.nixos.tags = [ "vm" ]; };
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.generation-label ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "the label ends in twelve digits of the revision" =
    lib.hasSuffix "-0123456789ab" good.config.system.nixos.label
    && lib.hasPrefix good.config.system.nixos.version good.config.system.nixos.label;
  "a dirty tree shows, tags come first" =
    lib.hasPrefix "vm-" dirty.config.system.nixos.label && lib.hasSuffix "-0123456789ab-dirty" dirty.config.system.nixos.label;
  "the system knows its revision" = good.config.system.configurationRevision == revision;
  "the host's own label is kept" = (with' { inherit revision; } { system.nixos.label = "mine"; }).config.system.nixos.label == "mine";
  "a label that boot loaders do not accept is refused" =
    !(builtins.tryEval (with' {
      inherit revision;
      label = "a b";
    } { }).config.system.nixos.label).success;
  "fires: no revision" = fires "nixfleet.generation-label.revision is not set" (with' { } { });
}
