# SPDX-License-Identifier: MIT
# The shape that all disk templates share: one disk, a partition to boot from, swap if asked for, and
# the rest for ROOT. Returns a module for disko.
{
  # Name of the template, for messages.
  name,
  # Whether the template is in force: the disko scope imports all of them and chooses one.
  enable ? true,
  # Path of the disk, for example /dev/disk/by-id/nvme-SAMSUNG_1234. All that is on it is lost.
  disk,
  # Size of the partition that is mounted on /boot.
  espSize ? "1G",
  # Size of the swap partition, or null for none.
  swapSize ? null,
  # Boot by BIOS and GRUB instead of UEFI.
  bios ? false,
  # disko's content of the root partition.
  root,
  # Where what is kept lies, for a root that is empty at each boot; null for a root that stays.
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

  # Conditions on arguments are mkIf, not optionalAttrs: the disko scope takes them from config.
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
            message = "The disk template ${name} was given disk = \"${disk}\". Give the path of a disk, best one below /dev/disk/by-id, which stays the same when disks are added.";
          }
        ];

        boot.loader = {
          grub.enable = mkDefault bios;
          systemd-boot.enable = lib.mkIf bios (mkDefault false);
        };
      }
      (lib.optionalAttrs (options ? disko) {
        disko.devices.disk.main = {
          type = "disk";
          # GRUB's own check of a wrong value would come before the message above.
          device = mkDefault (if isPath then disk else "/dev/disk");
          content = {
            type = "gpt";
            partitions =
              lib.optionalAttrs bios {
                # GRUB's own code: a GPT has no gap for it.
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
