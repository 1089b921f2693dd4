# SPDX-License-Identifier: MIT
# Disk template hybrid: one ext4 root, for machines of which you do not know whether they boot by BIOS or by
# UEFI: GRUB is there for both.
{
  disk,
  espSize ? "1G",
  swapSize ? null,
  ...
}@args:
import ./layout (
  args
  // {
    name = "hybrid";
    firmware = "hybrid";
    root = {
      type = "filesystem";
      format = "ext4";
      mountpoint = "/";
      mountOptions = [ "noatime" ];
    };
  }
)
