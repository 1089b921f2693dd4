# SPDX-License-Identifier: MIT
# disko's partitions of a disk, by its name. Every disk of a host gets the same.
{
  lib,
  bios,
  efi,
  mirrored,
  # Where the boot partition of a disk is mounted.
  bootOf,
  espSize,
  swapSize,
  # disko's contents of the swap and root partitions.
  swap,
  root,
}:
disk:
lib.optionalAttrs bios {
  # For GRUB's code: a GPT has no gap for it.
  grub = {
    size = "1M";
    # The type EF02, by its full name with a mirror: for EF02, disko would give GRUB both disks and one
    # /boot, without which the second disk does not boot.
    type = if mirrored then "21686148-6449-6E6F-744E-656564454649" else "EF02";
    priority = 1;
  };
}
// lib.optionalAttrs (swapSize != null) {
  swap = {
    size = swapSize;
    type = if mirrored then "FD00" else "8200";
    content = swap;
  };
}
// {
  boot = {
    size = espSize;
    type = if efi then "EF00" else "8300";
    content = {
      type = "filesystem";
      format = if efi then "vfat" else "ext4";
      mountpoint = bootOf disk;
      mountOptions = [
        "noatime"
      ]
      ++ lib.optional efi "umask=0077"
      # With one disk gone, the other boots.
      ++ lib.optionals mirrored [
        "nofail"
        "x-systemd.device-timeout=30s"
      ];
    };
  };
  root = {
    size = "100%";
    type = if mirrored then "FD00" else "8300";
    content = root;
  };
}
