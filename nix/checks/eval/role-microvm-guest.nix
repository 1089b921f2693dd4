# SPDX-License-Identifier: MIT
# Role microvm-guest: a guest of microvm.nix.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; })
    bareHost
    fires
    sshKey
    withInput
    ;
  scopes = import (root + "/nix/scopes");

  with' =
    modules:
    bareHost (
      [
        {
          # What microvm.nix sets for every guest; the test below uses its real module.
          boot.loader.grub.enable = lib.mkDefault false;
          fileSystems."/" = lib.mkDefault {
            device = "rootfs";
            fsType = "tmpfs";
          };
        }
        scopes.nixosModules.role-microvm-guest
      ]
      ++ modules
    );
  good = with' [ { nixfleet.operators.rootSshKeys = [ sshKey ]; } ];
  inherit (good.config) nixfleet;
in
{
  "evaluates" = good.failedAssertions == [ ] && good.warnings == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "its scopes are on" = lib.all (scope: nixfleet.${scope}.enable) [
      "base"
      "operators"
    ];
  "what needs a decision is off" = !lib.any (scope: nixfleet.${scope}.enable) [
      "impermanence"
    ];
  "no boot loader, but sshd" =
    !good.config.boot.loader.systemd-boot.enable && !good.config.boot.loader.grub.enable && good.config.services.openssh.enable;
  "the uplink asks for an address, whatever its name" =
    good.config.networking.useNetworkd
    && good.config.systemd.network.networks."20-uplink".networkConfig.DHCP == "yes"
    && good.config.systemd.network.networks."20-uplink".matchConfig.Type == "ether";
  "with microvm.nix it is a guest" = withInput "microvm" (
    microvm:
    let
      guest = bareHost [
        microvm.nixosModules.microvm
        scopes.nixosModules.role-microvm-guest
        { nixfleet.operators.rootSshKeys = [ sshKey ]; }
      ];
    in
    guest.failedAssertions == [ ] && guest.config.microvm.hypervisor == "qemu" && !guest.config.boot.loader.systemd-boot.enable
  );
  "fires: no one could log in" = fires "nixfleet.operators: no one could log in to this host" (
    with' [ { users.allowNoPasswordLogin = true; } ]
  );
  "disabled, the role changes nothing" = {
    expr =
      let
        evaluation = with' [ { nixfleet.roles.microvm-guest.enable = false; } ];
      in
      lib.any (scope: evaluation.config.nixfleet.${scope}.enable) [
      "base"
      "operators"
    ];
    expected = false;
  };
}
