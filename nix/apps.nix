# SPDX-License-Identifier: MIT
# The apps of `nix run`: the command line, the demo, and the checks that need a Nixpkgs.
{ pkgs, self }:
let
  inherit (pkgs) lib;
  inherit (pkgs.stdenv.hostPlatform) system;

  app = description: program: {
    type = "app";
    inherit program;
    meta = { inherit description; };
  };
  script =
    name: description: runtimeInputs: text:
    app description (lib.getExe (pkgs.writeShellApplication { inherit name runtimeInputs text; }));

  nixfleet = lib.getExe self.packages.${system}.nixfleet;
in
lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux (import ./lib/mk-vm-apps.nix { inherit pkgs; })
// {
  nixfleet = app "The NixFleet command line" nixfleet;
  default = app "The NixFleet command line" nixfleet;
  demo = script "nixfleet-demo" "A fleet on this machine, without VMs" [
    self.packages.${system}.nixfleet
  ] ''exec nixfleet demo "$@"'';
  validate =
    script "nixfleet-validate" "The evaluation tests of every module, scope, role and template"
      [
        pkgs.nix
        pkgs.perl
      ]
      ''
        NIXPKGS=''${NIXPKGS:-${pkgs.path}} exec ${self}/nix/checks/eval/run.sh "$@"
      '';
}
