# SPDX-License-Identifier: MIT
# Disk template btrfs-bios: subvolumes, by BIOS.
{
  lib,
  harness,
  root,
}:
let
  disk = import ./fixtures/disks.nix {
    inherit lib harness root;
    name = "btrfs-bios";
  };
  inherit (disk) bootOf good subvolumeOf;
  inherit (good.config) boot fileSystems swapDevices;
in
disk.suite {
  "boots by BIOS, from a /boot of its own" = {
    expr = bootOf good // {
      boot = fileSystems."/boot".fsType;
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
        efiSupport = false;
        efiInstallAsRemovable = false;
      };
      efiVariables = false;
      partitions = {
        grub = "EF02";
        boot = "8300";
        swap = "8200";
        root = "8300";
      };
      boot = "ext4";
    };
  };
  "swap is a partition that hibernation can use" =
    (lib.head swapDevices).device == "/dev/disk/by-partlabel/disk-main-swap" && boot.resumeDevice == "/dev/disk/by-partlabel/disk-main-swap";
  "home, journal and store are subvolumes" =
    fileSystems."/".fsType == "btrfs"
    && subvolumeOf good "/" == "root"
    && subvolumeOf good "/home" == "home"
    && subvolumeOf good "/var/log" == "log"
    && subvolumeOf good "/nix" == "nix";
  "nothing is wiped" = !good.config.nixfleet.impermanence.enable;
}
