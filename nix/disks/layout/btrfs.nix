# SPDX-License-Identifier: MIT
# disko's content of a btrfs root: a subvolume for each part that is snapshotted, kept or wiped by itself.
{
  # Mount points by subvolume.
  subvolumes,
  # Size of a swap file, or null for none.
  swapFileSize ? null,
}:
{
  type = "btrfs";
  # Overwrite what an earlier installation left.
  extraArgs = [ "-f" ];
  subvolumes =
    builtins.mapAttrs (_: mountpoint: {
      inherit mountpoint;
      mountOptions = [
        "compress=zstd"
        "noatime"
      ];
    }) subvolumes
    // (
      if swapFileSize == null then
        { }
      else
        {
          swap = {
            mountpoint = "/swap";
            # A swap file must be neither compressed nor copied on write.
            mountOptions = [
              "nodatacow"
              "noatime"
            ];
            swap.swapfile.size = swapFileSize;
          };
        }
    );
}
