# SPDX-License-Identifier: MIT
# Scope remote-builders: what Nix gets to know of them, on NixOS and nix-darwin.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; })
    fires
    host
    onMac
    sshKey
    ;
  scopes = import (root + "/nix/scopes");

  settings = builders: {
    nixfleet.remote-builders = {
      enable = true;
      inherit builders;
    };
  };
  with' = builders: host [ scopes.nixosModules.remote-builders (settings builders) ];
  arm = {
    hostName = "arm.example.org";
    hostKey = sshKey;
    systems = [ "aarch64-linux" ];
    sshKey = "/run/secrets/builder";
    maxJobs = 8;
    supportedFeatures = [ "big-parallel" ];
  };
  good = with' { inherit arm; };
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.remote-builders ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "Nix knows the builder" = {
    expr = good.config.environment.etc."nix/machines".text;
    expected = "ssh-ng://nix-builder@arm.example.org aarch64-linux /run/secrets/builder 8 1 big-parallel - -\n";
  };
  "builders fetch for themselves" = good.config.nix.distributedBuilds && good.config.nix.settings.builders-use-substitutes;
  "SSH knows the builder" = {
    expr = good.config.programs.ssh.knownHosts.nixfleet-builder-arm.publicKey;
    expected = sshKey;
  };
  "fires: a key in the store" = fires "nixfleet.remote-builders.builders.arm.sshKey is in the Nix store" (
    with' { arm = arm // { sshKey = "${builtins.storeDir}/abc-key"; }; }
  );
  "fires: SSH would ask" = fires "nixfleet.remote-builders.builders.arm.hostKey is not set" (
    with' { arm = arm // { hostKey = null; }; }
  );
  "a Mac knows the builder" =
    onMac
      [
        scopes.darwinModules.remote-builders
        (settings { inherit arm; })
      ]
      (
        mac:
        mac.failedAssertions == [ ]
        && lib.hasInfix "arm.example.org aarch64-linux /run/secrets/builder 8" mac.config.environment.etc."nix/machines".text
        && mac.config.programs.ssh.knownHosts.nixfleet-builder-arm.publicKey == sshKey
      );
  "a Mac whose Nix belongs to another installer does not know it, and a warning says so" =
    onMac
      [
        scopes.darwinModules.remote-builders
        (settings { inherit arm; })
        { nix.enable = false; }
      ]
      (mac: lib.hasInfix "darwin-system" mac.toplevel && lib.any (lib.hasInfix "nixfleet.remote-builders has no effect") mac.warnings);
  "a Mac: fires: SSH would ask" =
    onMac
      [
        scopes.darwinModules.remote-builders
        (settings { arm = arm // { hostKey = null; }; })
      ]
      (fires "nixfleet.remote-builders.builders.arm.hostKey is not set");
}
