# SPDX-License-Identifier: MIT
# Whether an OPTION that nothing defines is an error. It is not if it has a default, nor, with the lib of later
# Nixpkgs, if its type has an empty value, as nullOr has null: NixOS then leaves such defaults out.
{ lib }:
let
  probe = lib.evalModules {
    modules = [ { options.probe = lib.mkOption { type = lib.types.nullOr lib.types.str; }; } ];
  };
  emptyIsValue = (builtins.tryEval probe.config.probe).success;
in
option: !(option ? default) && !(emptyIsValue && option.type.emptyValue or { } ? value)
