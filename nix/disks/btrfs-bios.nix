# SPDX-License-Identifier: MIT
# Disk template btrfs-bios: btrfs for machines that boot by BIOS.
{
  disk,
  espSize ? "1G",
  swapSize ? null,
  ...
}@args:
import ./layout (
  args
  // {
    name = "btrfs-bios";
    firmware = "bios";
    root = import ./layout/btrfs.nix {
      subvolumes = {
        root = "/";
        home = "/home";
        log = "/var/log";
        nix = "/nix";
      };
    };
  }
)
