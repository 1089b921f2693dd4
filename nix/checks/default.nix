# SPDX-License-Identifier: MIT
# `nix flake check`: the programs build, every file parses, and each file of evaluation tests passes.
# The tests run in the build, each file in a process with its own limits, and not all in the process that
# evaluates the flake.
{
  pkgs,
  self,
  nixpkgs,
}:
let
  inherit (pkgs) lib;
  inherit (pkgs.stdenv.hostPlatform) system;

  files = lib.filter (lib.hasSuffix ".nix") (lib.attrNames (builtins.readDir ./eval));
  tests = lib.remove "entry" (map (lib.removeSuffix ".nix") files);

  inBuild =
    name: command:
    pkgs.runCommand "nixfleet-check-${name}"
      {
        nativeBuildInputs = [
          pkgs.nix
          pkgs.perl
        ];
      }
      ''
        export HOME=$TMPDIR NIX_REMOTE=dummy:// NIX_STATE_DIR=$TMPDIR/nix
        export NIXPKGS=${nixpkgs}
        bash ${self}/nix/checks/${command} | tee $out
      '';
in
lib.listToAttrs (
  map (name: lib.nameValuePair "eval-${name}" (inBuild "eval-${name}" "eval/run.sh ${name}")) tests
)
// lib.mapAttrs' (name: lib.nameValuePair "package-${name}") (
  lib.filterAttrs (name: _: name != "default") self.packages.${system}
)
// {
  parse = inBuild "parse" "parse.sh";
}
