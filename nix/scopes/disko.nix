# SPDX-License-Identifier: MIT
# Scope disko (NixOS): a disk template that is chosen by options, not by import, for hosts that are
# generated from data.
{
  config,
  lib,
  options,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.disko;

  templates = {
    btrfs = ../disks/btrfs.nix;
    btrfs-bios = ../disks/btrfs-bios.nix;
    btrfs-impermanence = ../disks/btrfs-impermanence.nix;
    btrfs-impermanence-bios = ../disks/btrfs-impermanence-bios.nix;
    ext4 = ../disks/ext4.nix;
    hybrid = ../disks/hybrid.nix;
    luks-btrfs-impermanence = ../disks/luks-btrfs-impermanence.nix;
    mirror = ../disks/mirror.nix;
    zfs = ../disks/zfs.nix;
  };
  # All are imported, since imports cannot depend on options; one is enabled.
  imported = lib.mapAttrsToList (
    name: template:
    import template (
      {
        enable = cfg.enable && cfg.template == name;
        disk = toString cfg.disk;
        inherit (cfg) espSize swapSize;
      }
      // lib.optionalAttrs (name == "mirror") { secondDisk = toString cfg.secondDisk; }
      // lib.optionalAttrs (lib.hasInfix "impermanence" name) { inherit (cfg) persistRoot; }
      // lib.optionalAttrs (lib.hasPrefix "luks" name) {
        inherit (cfg.luks) passwordFile keyFile tpm2 allowDiscards;
        luksName = cfg.luks.name;
      }
    )
  ) templates;
in
{
  _class = "nixos";

  imports = imported;

  options.nixfleet.disko = {
    enable = lib.mkEnableOption "a disk template, which disko lays out. Needs disko's module";

    template = mkOption {
      type = types.nullOr (types.enum (lib.attrNames templates));
      default = null;
      example = "btrfs-impermanence";
      description = ''
        The template, which also chooses the boot loader. With `impermanence` in its name, the root is empty at
        each boot. GRUB boots those with `bios` in their name by BIOS, and `hybrid` and `mirror` by BIOS and
        UEFI; systemd-boot boots the others by UEFI.
      '';
    };

    disk = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/dev/disk/by-id/nvme-SAMSUNG_1234";
      description = "Disk to format. Everything on it is lost when the host is installed.";
    };

    secondDisk = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/dev/disk/by-id/nvme-SAMSUNG_5678";
      description = "The other disk of the template `mirror`. Everything on it is lost, too.";
    };

    espSize = mkOption {
      type = types.str;
      default = "1G";
      description = "Size of the partition that is mounted on `/boot`.";
    };

    swapSize = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "8G";
      description = "Size of the swap. Null: no swap.";
    };

    persistRoot = mkOption {
      type = types.str;
      default = "/persist";
      description = "Directory for what is kept, with templates whose root is empty at each boot.";
    };

    luks = {
      name = mkOption {
        type = types.str;
        default = "cryptroot";
        description = "Name of the opened device below `/dev/mapper`.";
      };
      passwordFile = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "/tmp/disk.key";
        description = "File with the passphrase, on the machine that formats. Null: formatting asks for it.";
      };
      keyFile = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "/dev/disk/by-id/usb-KEY";
        description = "File or device with the key, when formatting and at each boot.";
      };
      tpm2 = lib.mkEnableOption "opening the disk with the machine's TPM, after you enrol it with `systemd-cryptenroll`";
      allowDiscards = mkOption {
        type = types.bool;
        default = true;
        description = "Whether to tell the disk which blocks are free. This shows how full it is.";
      };
    };
  };

  config.assertions = lib.mkIf cfg.enable [
    {
      assertion = cfg.template != null && cfg.disk != null;
      message = "nixfleet.disko needs nixfleet.disko.template (one of ${lib.concatStringsSep ", " (lib.attrNames templates)}) and nixfleet.disko.disk.";
    }
    {
      assertion = (cfg.template == "mirror") == (cfg.secondDisk != null);
      message = "nixfleet.disko.secondDisk is for the template mirror, which needs it: set both, or neither.";
    }
    {
      assertion = options ? disko;
      message = "nixfleet.disko.enable needs disko. Add disko.nixosModules.disko to the host's modules.";
    }
  ];
}
