# SPDX-License-Identifier: MIT
# Disk template zfs: a pool with datasets, by UEFI.
{
  lib,
  harness,
  root,
}:
let
  disk = import ./fixtures/disks.nix {
    inherit lib harness root;
    name = "zfs";
  };
  inherit (disk) bootOf good;
  inherit (good.config) boot fileSystems networking;
in
disk.suite {
  "boots by UEFI" = {
    expr = bootOf good // {
      boot = fileSystems."/boot".fsType;
      private = lib.elem "umask=0077" fileSystems."/boot".options;
    };
    expected = {
      loader = "systemd-boot";
      grub = { };
      efiVariables = true;
      partitions = {
        boot = "EF00";
        swap = "8200";
        root = "8300";
      };
      boot = "vfat";
      private = true;
    };
  };
  "home, journal and store are datasets that NixOS mounts" = {
    expr = lib.mapAttrs (_: fileSystem: [
      fileSystem.fsType
      fileSystem.device
      (lib.elem "zfsutil" fileSystem.options)
    ]) (removeAttrs fileSystems [ "/boot" ]);
    expected =
      lib.mapAttrs
        (_: dataset: [
          "zfs"
          "rpool/${dataset}"
          false
        ])
        {
          "/" = "root";
          "/home" = "home";
          "/nix" = "nix";
          "/var/log" = "log";
        };
  };
  "stage 1 imports the pool" = boot.supportedFilesystems.zfs && boot.initrd.supportedFilesystems.zfs;
  "the host has an id, which its name decides, and its own wins" = {
    expr = map (evaluation: evaluation.config.networking.hostId) [
      good
      (disk.host { } [ { networking.hostName = lib.mkForce "web-02"; } ])
      (disk.host { } [ { networking.hostId = "8425e349"; } ])
    ];
    expected = [
      (builtins.substring 0 8 (builtins.hashString "sha256" "web-01"))
      (builtins.substring 0 8 (builtins.hashString "sha256" "web-02"))
      "8425e349"
    ];
  };
  "no hibernation, which can damage a pool" = boot.resumeDevice == "" && networking.hostId != null;
  "the pool's name can be chosen" =
    (disk.host { poolName = "tank"; } [ ]).config.fileSystems."/".device == "tank/root";
}
