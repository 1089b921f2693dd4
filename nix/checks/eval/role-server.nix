# SPDX-License-Identifier: MIT
# Role server: from the generated hardware configuration to a login.
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
        scopes.nixosModules.role-server
      ]
      ++ modules
    );
  good = with' [ { nixfleet.operators.rootSshKeys = [ sshKey ]; } ];
  inherit (good.config) nixfleet;
  own = with' [
    # Also by hand: a scope that is imported twice counts once.
    scopes.nixosModules.base
    {
      nixfleet.operators.rootSshKeys = [ sshKey ];
      nixfleet.firewall.enable = false;
      networking.useDHCP = false;
      systemd.enableEmergencyMode = true;
      services.openssh.settings.PermitRootLogin = "yes";
    }
  ];
  inherit (good.config) systemd;
  # NixOS 25.11 and later, which have the watchdog's options under systemd's own names.
  later = with' [
    {
      config.nixfleet.operators.rootSshKeys = [ sshKey ];
      options = lib.optionalAttrs (!(good.options.systemd ? settings)) {
        systemd.settings.Manager = lib.mkOption { type = lib.types.attrsOf lib.types.str; };
      };
    }
  ];
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
      "firewall"
      "hardware"
      "monitoring"
      "o11y"
      "operators"
      "secrets"
      "terminal-compat"
    ];
  "what needs a decision is off" = !lib.any (scope: nixfleet.${scope}.enable) [
      "impermanence"
      "generation-label"
    ];
  "the host's own values are kept" =
    own.failedAssertions == [ ]
    && !own.config.nixfleet.firewall.enable
    && !(own.config.networking.nftables.tables ? nixfleet-ssh)
    && own.config.systemd.enableEmergencyMode
    && own.config.services.openssh.settings.PermitRootLogin == "yes"
    && !own.config.networking.useDHCP;
  "a server does not wait at its console, and starts anew when it hangs" =
    !systemd.enableEmergencyMode && systemd.watchdog.runtimeTime == "30s";
  "the watchdog is set under the names that NixOS has" = {
    expr = {
      inherit (later.config.systemd.settings.Manager) RuntimeWatchdogSec RebootWatchdogSec;
      inherit (later) warnings;
    };
    expected = {
      RuntimeWatchdogSec = "30s";
      RebootWatchdogSec = "10min";
      warnings = [ ];
    };
  };
  "a host with a screen may" =
    (with' [ { nixfleet.operators.rootSshKeys = [ sshKey ]; services.xserver.enable = true; } ]).config.systemd.enableEmergencyMode;
  "the SSH limit is on" = good.config.networking.nftables.tables ? nixfleet-ssh;
  "fires: no one could log in" = fires "nixfleet.operators: no one could log in to this host" (
    with' [ { users.allowNoPasswordLogin = true; } ]
  );
  "disabled, the role changes nothing" = {
    expr =
      let
        evaluation = with' [ { nixfleet.roles.server.enable = false; } ];
      in
      lib.any (scope: evaluation.config.nixfleet.${scope}.enable) [
      "base"
      "firewall"
      "hardware"
      "monitoring"
      "o11y"
      "operators"
      "secrets"
      "terminal-compat"
    ];
    expected = false;
  };
}
