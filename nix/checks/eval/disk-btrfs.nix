# SPDX-License-Identifier: MIT
# Disk template btrfs: subvolumes, by UEFI.
{
  lib,
  harness,
  root,
}:
let
  disk = import ./fixtures/disks.nix {
    inherit lib harness root;
    name = "btrfs";
  };
  inherit (disk) bootOf good subvolumeOf;
  inherit (good.config) boot fileSystems swapDevices;
in
disk.suite {
  "boots by UEFI" = {
    expr = bootOf good // {
      boot = fileSystems."/boot".fsType;
      private = lib.elem "umask=0077" fileSystems."/boot".options;
    };
    expected = {
      loader = "systemd-boot";
      grub = { };
      efiVariables = true;
      partitions = {
        boot = "EF00";
        swap = "8200";
        root = "8300";
      };
      boot = "vfat";
      private = true;
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
