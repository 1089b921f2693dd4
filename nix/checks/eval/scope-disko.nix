# SPDX-License-Identifier: MIT
# Scope disko: the template that is chosen by name is the one that is applied.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; })
    bareHost
    fires
    host
    withInput
    ;
  scopes = import (root + "/nix/scopes");
  on = test: withInput "disko" (_: withInput "impermanence" (_: test));

  with' =
    disko: modules:
    bareHost (
      [
        harness.inputs.disko.nixosModules.disko
        harness.inputs.impermanence.nixosModules.impermanence
        scopes.nixosModules.impermanence
        scopes.nixosModules.disko
        {
          nixfleet.disko = {
            enable = true;
          } // disko;
        }
      ]
      ++ modules
    );
  chosen = with' {
    template = "btrfs-impermanence-bios";
    disk = "/dev/disk/by-id/TEST";
    swapSize = "2G";
    persistRoot = "/keep";
  } [ ];
  # The result of the same template when it is imported.
  imported = bareHost [
    harness.inputs.disko.nixosModules.disko
    harness.inputs.impermanence.nixosModules.impermanence
    scopes.nixosModules.impermanence
    (scopes.scopes.disk-templates.btrfs-impermanence-bios {
      disk = "/dev/disk/by-id/TEST";
      swapSize = "2G";
      persistRoot = "/keep";
    })
  ];
  luks = with' {
    template = "luks-btrfs-impermanence";
    disk = "/dev/disk/by-id/TEST";
    luks.tpm2 = true;
    luks.name = "vault";
  } [ { boot.loader.grub.enable = false; boot.loader.systemd-boot.enable = true; } ];
in
{
  "evaluates" = on (chosen.failedAssertions == [ ] && lib.hasSuffix ".drv" chosen.toplevel);
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.disko ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "it is the same system as by import" = on {
    expr = chosen.toplevel;
    expected = imported.toplevel;
  };
  "LUKS options are passed on" = on (
    luks.config.boot.initrd.luks.devices.vault.crypttabExtraOpts == [ "tpm2-device=auto" ]
    && luks.config.nixfleet.impermanence.enable
    && luks.failedAssertions == [ ]
  );
  "each template can be chosen" = on {
    expr = lib.mapAttrs (
      name: _:
      (with' (
        {
          template = name;
          disk = "/dev/TEST";
        }
        // lib.optionalAttrs (name == "mirror") { secondDisk = "/dev/OTHER"; }
      ) [ ]).config.disko.devices.disk.main.device
    ) scopes.scopes.disk-templates;
    expected = lib.mapAttrs (_: _: "/dev/TEST") scopes.scopes.disk-templates;
  };
  "fires: no template" = on {
    expr = lib.any (lib.hasInfix "nixfleet.disko needs nixfleet.disko.template (one of btrfs") (
      with' { disk = "/dev/sda"; } [ ]
    ).failedAssertions;
    expected = true;
  };
  "fires: a mirror of one disk" = on {
    expr = lib.any (lib.hasInfix "nixfleet.disko.secondDisk is for the template mirror") (
      with' {
        template = "mirror";
        disk = "/dev/sda";
      } [ ]
    ).failedAssertions;
    expected = true;
  };
  "fires: disko is not imported" = {
    expr = lib.any (lib.hasInfix "nixfleet.disko.enable needs disko") (
      host [
        scopes.nixosModules.disko
        {
          nixfleet.disko = {
            enable = true;
            template = "ext4";
            disk = "/dev/sda";
          };
        }
      ]
    ).failedAssertions;
    expected = true;
  };
}
