# SPDX-License-Identifier: MIT
# Disk template hybrid: one root, by BIOS and by UEFI.
{
  lib,
  harness,
  root,
}:
let
  disk = import ./fixtures/disks.nix {
    inherit lib harness root;
    name = "hybrid";
  };
  inherit (disk) bootOf good;
  inherit (good.config) fileSystems;
in
disk.suite {
  "boots by BIOS and by UEFI, from the same partition" = {
    expr = bootOf good // {
      boot = fileSystems."/boot".fsType;
      private = lib.elem "umask=0077" fileSystems."/boot".options;
    };
    expected = {
      loader = "grub";
      grub = {
        mirroredBoots = [
          [
            "/boot"
            "/dev/disk/by-id/nvme-TEST"
          ]
        ];
        efiSupport = true;
        efiInstallAsRemovable = true;
      };
      efiVariables = false;
      partitions = {
        grub = "EF02";
        boot = "EF00";
        swap = "8200";
        root = "8300";
      };
      boot = "vfat";
      private = true;
    };
  };
  "one ext4 root" = fileSystems."/".fsType == "ext4" && !(fileSystems ? "/home");
  "fires: a machine without BIOS" = {
    expr = lib.any (lib.hasInfix "The disk template hybrid boots by BIOS, which aarch64-linux does not have") (
      disk.host { } [ { nixpkgs.hostPlatform = "aarch64-linux"; } ]
    ).failedAssertions;
    expected = true;
  };
}
