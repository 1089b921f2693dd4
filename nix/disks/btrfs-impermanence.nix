# SPDX-License-Identifier: MIT
# Disk template btrfs-impermanence: UEFI, a btrfs root that is empty at each boot.
{
  disk,
  espSize ? "1G",
  swapSize ? null,
  persistRoot ? "/persist",
  ...
}@args:
import ./layout (
  args
  // {
    name = "btrfs-impermanence";
    inherit persistRoot;
    root = import ./layout/btrfs.nix {
      subvolumes = {
        root = "/";
        nix = "/nix";
        persist = persistRoot;
      };
    };
  }
)
