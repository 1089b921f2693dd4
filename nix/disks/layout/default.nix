# SPDX-License-Identifier: MIT
# The layout that all disk templates share: one disk, a boot partition, swap if a size is given, and the
# rest for the root. Returns a module for disko.
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
  # Boot by BIOS and GRUB instead of UEFI.
  bios ? false,
  # disko's content of the root partition.
  root,
  # Directory for what is kept, with a root that is empty at each boot; null for a root that is kept.
  persistRoot ? null,
  ...
}:
{ lib, options, ... }:
let
  inherit (lib) mkDefault;
  isPath = lib.hasPrefix "/dev/" disk;

  boot = {
    size = espSize;
    type = if bios then "8300" else "EF00";
    content = {
      type = "filesystem";
      format = if bios then "ext4" else "vfat";
      mountpoint = "/boot";
      mountOptions = [ "noatime" ] ++ lib.optional (!bios) "umask=0077";
    };
  };
  swap = {
    size = swapSize;
    content = {
      type = "swap";
      # Hibernation writes here.
      resumeDevice = true;
    };
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
            assertion = isPath;
            message = "The disk template ${name} was given disk = \"${disk}\". Give the path of a disk, preferably one below /dev/disk/by-id, which does not change when disks are added.";
          }
        ];

        boot.loader = {
          grub.enable = mkDefault bios;
          systemd-boot.enable = mkDefault (!bios);
          efi.canTouchEfiVariables = lib.mkIf (!bios) (mkDefault true);
        };
      }
      (lib.optionalAttrs (options ? disko) {
        disko.devices.disk.main = {
          type = "disk";
          # With a wrong value, GRUB's own check would fail before the assertion above.
          device = mkDefault (if isPath then disk else "/dev/disk");
          content = {
            type = "gpt";
            partitions =
              lib.optionalAttrs bios {
                # For GRUB's code: a GPT has no gap for it.
                grub = {
                  size = "1M";
                  type = "EF02";
                  priority = 1;
                };
              }
              // lib.optionalAttrs (swapSize != null) { inherit swap; }
              // {
                inherit boot;
                root = {
                  size = "100%";
                  content = root;
                };
              };
          };
        };
      })
      (lib.mkIf (persistRoot != null) {
        fileSystems.${persistRoot}.neededForBoot = mkDefault true;
      })
      (lib.optionalAttrs (options ? nixfleet.impermanence) {
        nixfleet.impermanence = lib.mkIf (persistRoot != null) {
          enable = mkDefault true;
          persistRoot = mkDefault persistRoot;
        };
      })
    ]
  );
}
