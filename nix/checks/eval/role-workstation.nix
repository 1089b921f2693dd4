# SPDX-License-Identifier: MIT
# Role workstation: a machine with a local user.
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
    withInput
    ;
  scopes = import (root + "/nix/scopes");

  with' =
    modules:
    bareHost (
      [
        generatedHardware
        scopes.nixosModules.role-workstation
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
    && good.config.networking.networkmanager.enable
    && good.config.services.openssh.enable
    && !good.config.services.openssh.settings.PasswordAuthentication
    && lib.elem 22 good.config.networking.firewall.allowedTCPPorts;
  "its scopes are on" = lib.all (scope: nixfleet.${scope}.enable) [
      "backup"
      "base"
      "firewall"
      "hardware"
      "o11y"
      "operators"
      "secrets"
      "terminal-compat"
    ];
  "what needs a decision is off" = !lib.any (scope: nixfleet.${scope}.enable) [
      "home-manager"
      "impermanence"
      "generation-label"
    ];
  "the local user chooses the network" = good.config.networking.networkmanager.enable;
  "Bluetooth and firmware updates" = good.config.hardware.bluetooth.enable && good.config.services.fwupd.enable;
  "homes are configured if the fleet has home-manager" = withInput "home-manager" (
    home-manager:
    let
      evaluation = with' [
        home-manager.nixosModules.home-manager
        {
          nixfleet.operators = {
            rootSshKeys = [ sshKey ];
            users.alice.homeManager.home.sessionVariables.EDITOR = "vim";
            primaryUser = "alice";
          };
        }
      ];
    in
    evaluation.config.nixfleet.home-manager.enable
    && evaluation.config.home-manager.users.alice.home.stateVersion == "24.11"
    && evaluation.failedAssertions == [ ]
  );
  "fires: no one could log in" = fires "nixfleet.operators: no one could log in to this host" (
    with' [ { users.allowNoPasswordLogin = true; } ]
  );
  "disabled, the role changes nothing" = {
    expr =
      let
        evaluation = with' [ { nixfleet.roles.workstation.enable = false; } ];
      in
      lib.any (scope: evaluation.config.nixfleet.${scope}.enable) [
      "backup"
      "base"
      "firewall"
      "hardware"
      "o11y"
      "operators"
      "secrets"
      "terminal-compat"
    ];
    expected = false;
  };
}
