# SPDX-License-Identifier: MIT
# Disk template btrfs-impermanence: a root that is empty at each boot, by UEFI.
{
  lib,
  harness,
  root,
}:
let
  disk = import ./fixtures/disks.nix {
    inherit lib harness root;
    name = "btrfs-impermanence";
  };
  inherit (disk) bootOf good subvolumeOf;
  inherit (good.config) boot fileSystems swapDevices;
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
  "swap is a partition that hibernation can use" =
    (lib.head swapDevices).device == "/dev/disk/by-partlabel/disk-main-swap" && boot.resumeDevice == "/dev/disk/by-partlabel/disk-main-swap";
  "the root is wiped, what is kept is mounted before activation" =
    good.config.nixfleet.impermanence.enable
    && subvolumeOf good "/persist" == "persist"
    && fileSystems."/persist".neededForBoot
    && fileSystems ? "/home" && fileSystems."/home".device == "/persist/home";
  "the subvolume that is replaced is the one that is mounted" = {
    expr = {
      inherit (boot.initrd.systemd.services.nixfleet-rollback.environment) ROLLBACK_DEVICE;
      ROLLBACK_SUBVOLUME = lib.removePrefix "/" boot.initrd.systemd.services.nixfleet-rollback.environment.ROLLBACK_SUBVOLUME;
    };
    expected = {
      ROLLBACK_DEVICE = "/dev/disk/by-partlabel/disk-main-root";
      ROLLBACK_SUBVOLUME = "root";
    };
  };
  "what is kept can be elsewhere" =
    (disk.host { persistRoot = "/keep"; } [ ]).config.nixfleet.impermanence.persistRoot == "/keep";
  "the host key is kept" = good.config.nixfleet.secrets.hostKeyPath == "/persist/etc/ssh/ssh_host_ed25519_key";
}
