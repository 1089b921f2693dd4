# SPDX-License-Identifier: MIT
# Disk template mirror: two disks with the same contents, by Linux's RAID 1. Each has a boot partition and GRUB
# for BIOS and UEFI, so that either boots alone.
{
  disk,
  # Path of the other disk. Everything on it is lost, too.
  secondDisk,
  espSize ? "1G",
  swapSize ? null,
  enable ? true,
  ...
}@args:
{
  lib,
  pkgs,
  ...
}:
let
  array = content: {
    type = "mdadm";
    level = 1;
    inherit content;
  };
  part = name: {
    type = "mdraid";
    inherit name;
  };
in
{
  _class = "nixos";
  _file = "the disk template mirror";

  imports = [
    (import ./layout (
      args
      // {
        name = "mirror";
        mirrorDisk = secondDisk;
        firmware = "hybrid";
        root = part "root";
        swap = part "swap";
        devices.mdadm = {
          root = array {
            type = "filesystem";
            format = "ext4";
            mountpoint = "/";
            mountOptions = [ "noatime" ];
          };
        }
        // lib.optionalAttrs (swapSize != null) {
          # Mirrored as well: what is swapped out is not lost with a disk.
          swap = array { type = "swap"; };
        };
      }
    ))
  ];

  config = lib.mkIf enable {
    # Without it, an array that lacks a disk is not started.
    boot.initrd.systemd.enable = lib.mkOverride 1100 true;
    # A failed disk is in the journal. mdadm's monitor does not run without an address or a program.
    boot.swraid.mdadmConf = lib.mkDefault "PROGRAM ${pkgs.util-linux}/bin/logger";
  };
}
