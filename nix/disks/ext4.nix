# SPDX-License-Identifier: MIT
# Disk template ext4: UEFI, one ext4 root. The simplest layout.
{
  disk,
  espSize ? "1G",
  swapSize ? null,
  ...
}@args:
import ./layout (
  args
  // {
    name = "ext4";
    root = {
      type = "filesystem";
      format = "ext4";
      mountpoint = "/";
      mountOptions = [ "noatime" ];
    };
  }
)
