# SPDX-License-Identifier: MIT
# Role endpoint: the least that can be managed.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; })
    bareHost
    fires
    generatedHardware
    sshKey
    ;
  scopes = import (root + "/nix/scopes");

  with' =
    modules:
    bareHost (
      [
        generatedHardware
        scopes.nixosModules.role-endpoint
      ]
      ++ modules
    );
  good = with' [ { nixfleet.operators.rootSshKeys = [ sshKey ]; } ];
  inherit (good.config) nixfleet;
in
{
  "evaluates" = good.failedAssertions == [ ] && good.warnings == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "generated hardware and the role make a machine that boots and is reached" =
    good.config.boot.loader.systemd-boot.enable
    && !good.config.boot.loader.grub.enable
    && good.config.networking.useDHCP
    && good.config.services.openssh.enable
    && !good.config.services.openssh.settings.PasswordAuthentication
    && lib.elem 22 good.config.networking.firewall.allowedTCPPorts;
  "its scopes are on" = lib.all (scope: nixfleet.${scope}.enable) [
      "base"
      "operators"
      "secrets"
    ];
  "what needs a decision is off" = !lib.any (scope: nixfleet.${scope}.enable) [
      "impermanence"
    ];
  "the firewall is NixOS's own" = good.config.networking.firewall.enable && !good.config.networking.nftables.enable;
  "fires: no one could log in" = fires "nixfleet.operators: no one could log in to this host" (
    with' [ { users.allowNoPasswordLogin = true; } ]
  );
  "disabled, the role changes nothing" = {
    expr =
      let
        evaluation = with' [ { nixfleet.roles.endpoint.enable = false; } ];
      in
      lib.any (scope: evaluation.config.nixfleet.${scope}.enable) [
      "base"
      "operators"
      "secrets"
    ];
    expected = false;
  };
}
