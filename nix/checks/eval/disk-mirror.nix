# SPDX-License-Identifier: MIT
# Disk template mirror: two disks, of which either boots alone.
{
  lib,
  harness,
  root,
}:
let
  disk = import ./fixtures/disks.nix {
    inherit lib harness root;
    name = "mirror";
    needs.secondDisk = "/dev/disk/by-id/nvme-SECOND";
  };
  inherit (disk) bootOf good;
  inherit (good.config) boot disko fileSystems;
  # The type EF02, by its full name.
  biosBoot = "21686148-6449-6E6F-744E-656564454649";
in
disk.suite {
  "either disk boots, by BIOS and by UEFI" = {
    expr = bootOf good;
    expected = {
      loader = "grub";
      grub = {
        mirroredBoots = [
          [
            "/boot"
            "/dev/disk/by-id/nvme-TEST"
          ]
          [
            "/boot-second"
            "/dev/disk/by-id/nvme-SECOND"
          ]
        ];
        efiSupport = true;
        efiInstallAsRemovable = true;
      };
      efiVariables = false;
      partitions = {
        grub = biosBoot;
        boot = "EF00";
        swap = "FD00";
        root = "FD00";
      };
    };
  };
  "the disks have the same partitions" = {
    expr = lib.mapAttrs (_: partition: {
      inherit (partition) type size;
    }) disko.devices.disk.second.content.partitions;
    expected = lib.mapAttrs (_: partition: {
      inherit (partition) type size;
    }) disko.devices.disk.main.content.partitions;
  };
  "root and swap are mirrored" = {
    expr = {
      root = fileSystems."/".device;
      swap = map (swap: swap.device) good.config.swapDevices;
      levels = lib.mapAttrs (_: array: array.level) disko.devices.mdadm;
    };
    expected = {
      root = "/dev/md/root";
      swap = [ "/dev/md/swap" ];
      levels = {
        root = 1;
        swap = 1;
      };
    };
  };
  "without the other disk it boots: no mount waits for it, and stage 1 starts half an array" =
    lib.all (mountPoint: lib.elem "nofail" fileSystems.${mountPoint}.options) [
      "/boot"
      "/boot-second"
    ]
    && boot.swraid.enable
    && boot.initrd.systemd.enable;
  "mdadm reports failures, and its monitor can start" =
    lib.hasInfix "PROGRAM " good.config.environment.etc."mdadm.conf".text && good.warnings == [ ];
  "fires: a second disk without a path" = {
    expr = lib.any (lib.hasInfix "disk = \"sdb\"") (disk.host { secondDisk = "sdb"; } [ ]).failedAssertions;
    expected = true;
  };
}
