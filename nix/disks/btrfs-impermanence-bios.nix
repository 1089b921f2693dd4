# SPDX-License-Identifier: MIT
# Disk template btrfs-impermanence-bios: a btrfs root that is empty at each boot, for machines that boot by BIOS.
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
    name = "btrfs-impermanence-bios";
    firmware = "bios";
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
