# SPDX-License-Identifier: MIT
# Disk template zfs: UEFI, a ZFS pool with a dataset for each part that is snapshotted or kept by itself.
{
  disk,
  espSize ? "1G",
  # Size of a swap partition, or null for none. Not for hibernation, which can damage a pool.
  swapSize ? null,
  poolName ? "rpool",
  enable ? true,
  ...
}@args:
{
  config,
  lib,
  ...
}:
let
  dataset = mountpoint: {
    type = "zfs_fs";
    inherit mountpoint;
    # NixOS mounts it, as any other file system.
    options.mountpoint = "legacy";
  };
in
{
  _class = "nixos";
  _file = "the disk template zfs";

  imports = [
    (import ./layout (
      args
      // {
        name = "zfs";
        root = {
          type = "zfs";
          pool = poolName;
        };
        swap.type = "swap";
        devices.zpool.${poolName} = {
          type = "zpool";
          # Right for disks with blocks of 4096 bytes, and for those that only say they have 512.
          options.ashift = "12";
          rootFsOptions = {
            acltype = "posixacl";
            atime = "off";
            canmount = "off";
            compression = "zstd";
            mountpoint = "none";
            xattr = "sa";
          };
          datasets = {
            root = dataset "/";
            home = dataset "/home";
            log = dataset "/var/log";
            nix = dataset "/nix";
          };
        };
      }
    ))
  ];

  config = lib.mkIf enable {
    # ZFS imports a pool only on the host whose id is written on it.
    networking.hostId = lib.mkOverride 1100 (
      builtins.substring 0 8 (builtins.hashString "sha256" config.networking.hostName)
    );
  };
}
