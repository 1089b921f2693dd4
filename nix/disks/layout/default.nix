# SPDX-License-Identifier: MIT
# The layout that all disk templates share: a boot partition, swap if a size is given, and the rest for the
# root, on each disk. Returns a module for disko, which also chooses the boot loader: it has to match the
# partitions.
{
  # Name of the template, for messages.
  name,
  # Whether to apply the template: the disko scope imports all of them and enables one.
  enable ? true,
  # Path of the disk, for example /dev/disk/by-id/nvme-SAMSUNG_1234. Everything on it is lost.
  disk,
  # Size of the partition that is mounted on /boot.
  espSize ? "1G",
  # Size of the swap partition, or null for none.
  swapSize ? null,
  # How the machine boots: "uefi" by systemd-boot, "bios" by GRUB, "hybrid" by GRUB in both ways.
  firmware ? "uefi",
  # disko's content of the root partition.
  root,
  # disko's content of the swap partition. Hibernation writes there.
  swap ? {
    type = "swap";
    resumeDevice = true;
  },
  # The second disk of a mirror, which gets the same partitions; null for one disk.
  mirrorDisk ? null,
  # Devices of disko besides the disks.
  devices ? { },
  # Directory for what is kept, with a root that is empty at each boot; null for a root that is kept.
  persistRoot ? null,
  ...
}:
{
  lib,
  options,
  pkgs,
  ...
}:
let
  # Weaker than the mkDefault of other modules, stronger than the defaults of options.
  byTemplate = lib.mkOverride 1100;

  disks = {
    main = disk;
  }
  // lib.optionalAttrs (mirrorDisk != null) { second = mirrorDisk; };
  mirrored = mirrorDisk != null;
  bootOf = disk: if disk == "main" then "/boot" else "/boot-${disk}";
  notPaths = lib.filter (disk: !lib.hasPrefix "/dev/" disk) (lib.attrValues disks);
  # With a wrong value, checks of GRUB and disko would fail before the assertion below.
  pathOf = disk: if lib.hasPrefix "/dev/" disk then disk else "/dev/disk";

  bios = firmware != "uefi";
  efi = firmware != "bios";

  partitionsOf = import ./partitions.nix {
    inherit
      lib
      bios
      efi
      mirrored
      bootOf
      espSize
      swapSize
      swap
      root
      ;
  };
in
{
  _class = "nixos";
  _file = "the disk template ${name}";

  # Conditions on arguments use mkIf, not optionalAttrs: the disko scope takes the arguments from config.
  config = lib.mkIf enable (
    lib.mkMerge [
      {
        assertions = [
          {
            assertion = options ? disko;
            message = "The disk template ${name} needs disko. Add disko.nixosModules.disko to the host's modules.";
          }
          {
            assertion = notPaths == [ ];
            message = "The disk template ${name} was given disk = \"${lib.concatStringsSep ", " notPaths}\". Give the path of a disk, preferably one below /dev/disk/by-id, which does not change when disks are added.";
          }
          {
            assertion = bios -> pkgs.stdenv.hostPlatform.isx86;
            message = "The disk template ${name} boots by BIOS, which ${pkgs.stdenv.hostPlatform.system} does not have. Use ext4 or btrfs.";
          }
        ];

        boot.loader = {
          grub.enable = byTemplate bios;
          systemd-boot.enable = byTemplate (!bios);
          efi.canTouchEfiVariables = lib.mkIf (!bios) (byTemplate true);
          grub.efiSupport = lib.mkIf (bios && efi) (byTemplate true);
          # Under the name that firmware looks for by itself: the same disk then boots by BIOS and by UEFI.
          grub.efiInstallAsRemovable = lib.mkIf (bios && efi) (byTemplate true);
          grub.mirroredBoots = lib.mkIf mirrored (
            lib.mapAttrsToList (name: device: {
              path = bootOf name;
              devices = [ (pathOf device) ];
            }) disks
          );
        };
      }
      (lib.optionalAttrs (options ? disko) {
        disko.devices = lib.recursiveUpdate {
          disk = lib.mapAttrs (name: device: {
            type = "disk";
            device = lib.mkDefault (pathOf device);
            content = {
              type = "gpt";
              partitions = partitionsOf name;
            };
          }) disks;
        } devices;
      })
      (lib.mkIf (persistRoot != null) {
        fileSystems.${persistRoot}.neededForBoot = lib.mkDefault true;
      })
      (lib.optionalAttrs (options ? nixfleet.impermanence) {
        nixfleet.impermanence = lib.mkIf (persistRoot != null) {
          enable = lib.mkDefault true;
          persistRoot = lib.mkDefault persistRoot;
        };
      })
    ]
  );
}
