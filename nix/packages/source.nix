# SPDX-License-Identifier: MIT
# What the programs are built of. Documentation and Nix files are left out, so that changing them
# rebuilds nothing. vendor-hash.sh checks that no Go package of the module is outside.
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
