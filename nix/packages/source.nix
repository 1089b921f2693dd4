# SPDX-License-Identifier: MIT
# The source of the programs. Documentation and Nix files are left out, so that a change to them rebuilds
# nothing. vendor-hash.sh checks that every Go package of the module is included.
{ lib }:
let
  root = ../..;
in
lib.fileset.toSource {
  inherit root;
  fileset = lib.fileset.unions (
    map (name: lib.fileset.maybeMissing (root + "/${name}")) (import ./source-folders.nix)
  );
}
