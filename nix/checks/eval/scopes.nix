# SPDX-License-Identifier: MIT
# The scopes as a whole: to import them all changes nothing, each has a class and a test, each file is
# short, and the flake of nix/scopes has the same scopes.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) host onMac;
  scopes = import (root + "/nix/scopes");
  flake = (import (root + "/nix/scopes/flake.nix")).outputs { };

  # Importing a role enables it; everything else is enabled by option.
  passive = lib.filterAttrs (name: _: !lib.hasPrefix "role-" name) scopes.nixosModules;

  namesIn =
    folder:
    map (lib.removeSuffix ".nix") (
      lib.filter (lib.hasSuffix ".nix") (lib.attrNames (builtins.readDir (root + "/nix/${folder}")))
    );
  scopeNames = lib.subtractLists [ "default" "flake" ] (namesIn "scopes");
  tests =
    map (name: "scope-${name}") scopeNames
    ++ map (name: "role-${name}") (namesIn "roles")
    ++ map (name: "disk-${name}") (namesIn "disks")
    ++ namesIn "platforms";

  # Every .nix file below a folder.
  filesBelow =
    folder:
    lib.filter (path: lib.hasSuffix ".nix" (toString path)) (lib.filesystem.listFilesRecursive (root + "/nix/${folder}"));
  files = lib.concatMap filesBelow [
    "scopes"
    "roles"
    "disks"
    "platforms"
  ];
  linesOf = file: lib.length (lib.splitString "\n" (builtins.readFile file)) - 1;
  short = file: lib.removePrefix "${toString root}/" (toString file);

  exported = {
    nixos = scopes.nixosModules;
    darwin = scopes.darwinModules;
    homeManager = scopes.homeModules;
  };
  withoutClass = lib.concatLists (
    lib.mapAttrsToList (
      class: modules:
      lib.filter (file: !lib.hasInfix "_class = \"${class}\";" (builtins.readFile file)) (lib.attrValues modules)
    ) exported
  );
in
{
  "there are seventeen" = {
    # In the order of the file names.
    expr = scopeNames;
    expected = [
      "backup"
      "base"
      "compliance"
      "disko"
      "firewall"
      "generation-label"
      "hardware"
      "home-manager"
      "impermanence"
      "monitoring-server"
      "monitoring"
      "o11y"
      "operators"
      "remote-builders"
      "secrets"
      "terminal-compat"
      "vpn"
    ];
  };
  "importing all of them changes nothing" = {
    expr = (host (lib.attrValues passive)).toplevel;
    expected = (host [ ]).toplevel;
  };
  "importing all of them changes nothing on a Mac" = onMac (lib.attrValues scopes.darwinModules) (
    imported: onMac [ ] (plain: imported.toplevel == plain.toplevel)
  );
  "each has a test of its name" = {
    expr = lib.filter (name: !builtins.pathExists (./. + "/${name}.nix")) tests;
    expected = [ ];
  };
  "each module names its class" = {
    expr = map short withoutClass;
    expected = [ ];
  };
  "no file is longer than 155 lines" = {
    expr = map short (lib.filter (file: linesOf file > 155) files);
    expected = [ ];
  };
  "no file has a top-level `with` or forces a value" = {
    expr = map short (
      lib.filter (
        file:
        let
          text = builtins.readFile file;
        in
        lib.hasInfix "with lib;" text || lib.hasInfix "mkForce" text
      ) files
    );
    expected = [ ];
  };
  "the flake of nix/scopes has the same" = {
    expr = flake;
    expected = scopes;
  };
  "a module is refused where it does not belong" =
    !(builtins.tryEval (host [ scopes.darwinModules.base ]).toplevel).success;
}
