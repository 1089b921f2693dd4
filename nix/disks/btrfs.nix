# SPDX-License-Identifier: MIT
# Disk template btrfs: UEFI, btrfs with /home and /var/log in subvolumes of their own.
{
  disk,
  espSize ? "1G",
  swapSize ? null,
  ...
}@args:
import ./layout (
  args
  // {
    name = "btrfs";
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
