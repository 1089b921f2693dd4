# SPDX-License-Identifier: MIT
# One row of the matrix, or some of its cells; run.sh calls this.
{ root, harness }:
let
  built = import ../eval/harness harness;
  inherit (built) lib;
  # Those that INPUTS lacks are null, and are looked at only where a shape needs them.
  inherit (built) inputs;
  scopes = import (root + "/nix/scopes");

  files = lib.filter (lib.hasSuffix ".nix") (lib.attrNames (builtins.readDir ./shapes));
  shapes = lib.genAttrs (map (lib.removeSuffix ".nix") files) (
    name:
    {
      class = "nixos";
      needs = [ ];
      system = null;
    }
    // import (./shapes + "/${name}.nix") {
      inherit inputs;
      # A key of which no private key exists.
      sshKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDKmo2gJZQ4yyNXm9rSm2z7Pj7hRZWkRUh1oG0Jt5xSt test";
    }
  );
  rows = import ./cells.nix { inherit lib inputs scopes; };
  cellsOf = shape: rows.${shape.class} shape.needs;

  evaluate =
    name: extra:
    let
      shape = shapes.${name};
      args = {
        modules = [
          {
            _file = "the shape ${name}";
            networking.hostName = lib.mkOverride 900 name;
            system.stateVersion = if shape.class == "darwin" then 5 else "24.11";
          }
        ]
        ++ shape.modules
        ++ extra;
      }
      // lib.optionalAttrs (shape.system != null) { inherit (shape) system; };
    in
    built.${shape.class} args;

  result =
    name: base: cellName:
    let
      cell = (cellsOf shapes.${name}).${cellName};
      host = evaluate name ([ cell.module ] ++ cell.partners);
      facts = view: import ./facts.nix { inherit lib; inherit (view) config options; };
      before = facts base;
      after = facts host;
      lost = kind: lib.subtractLists after.${kind} before.${kind};
      refused =
        host.failedAssertions != [ ]
        && lib.all (
          message: lib.any (danger: lib.hasInfix danger message) cell.mayRefuse
        ) host.failedAssertions;
      told = import ./changes.nix {
        inherit lib base host;
        inherit (cell) module;
        shape = name;
      };
    in
    {
      shape = name;
      cell = cellName;
    }
    // (
      if refused then
        { refused = host.failedAssertions; }
      else
        {
          assertions = host.failedAssertions;
          # Forced only where nothing failed: the error would be the same one.
          evaluates = host.failedAssertions == [ ] && lib.hasInfix ".drv" host.toplevel;
          boot = lost "boot";
          login = lost "login";
          identities = lost "identities";
          warnings = lib.subtractLists base.warnings host.warnings;
          inherit (told) changes unyielding;
        }
    );
in
{
  shapes = lib.mapAttrsToList (
    name: shape:
    let
      missing = lib.filter (input: inputs.${input} == null) (
        lib.unique (
          shape.needs
          ++ [
            "home-manager"
            "impermanence"
          ]
        )
      );
    in
    {
      inherit name;
      cells = lib.attrNames (scopes."${shape.class}Modules");
      skip =
        if missing != [ ] then
          "INPUTS has no ${lib.concatStringsSep ", " missing}"
        else if shape.class == "darwin" && built.darwin == null then
          "NIX_DARWIN is not set"
        else
          null;
    }
  ) shapes;

  # The host is the same for all cells of a call.
  run =
    name: cells:
    let
      base = evaluate name [ ];
    in
    if base.failedAssertions == [ ] then
      map (result name base) cells
    else
      throw "the shape ${name} fails by itself: ${toString base.failedAssertions}";
}
