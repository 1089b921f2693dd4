# SPDX-License-Identifier: MIT
# Platform module nixos-base: boot, address, clock, SSH; the host's own settings override it. The tests of
# roles cover the rest.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) bareHost generatedHardware host;
  scopes = import (root + "/nix/scopes");

  with' =
    module:
    bareHost [
      generatedHardware
      scopes.nixosModules.nixos-base
      { nixfleet.nixos-base.enable = true; }
      module
    ];
  good = with' { };
  own = with' {
    nixfleet.nixos-base.bootLoader = false;
    boot.loader.grub.enable = false;
    services.openssh.settings.PasswordAuthentication = true;
  };
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.nixos-base ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "boots by UEFI, with a boot menu that times out" =
    good.config.boot.loader.systemd-boot.enable
    && good.config.boot.loader.efi.canTouchEfiVariables
    && good.config.boot.loader.systemd-boot.configurationLimit == 20;
  "the clock is synchronised" = good.config.services.timesyncd.enable;
  "sshd takes keys only" =
    let
      inherit (good.config.services.openssh) settings;
    in
    !settings.PasswordAuthentication && !settings.KbdInteractiveAuthentication && settings.PermitRootLogin == "prohibit-password";
  "the host's own values are kept" =
    !own.config.boot.loader.systemd-boot.enable && own.config.services.openssh.settings.PasswordAuthentication;
}
