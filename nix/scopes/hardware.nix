# SPDX-License-Identifier: MIT
# Scope hardware (NixOS): hardware settings of a machine that hardware-configuration.nix does not hold.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (lib)
    mkEnableOption
    mkIf
    mkOption
    types
    ;
  cfg = config.nixfleet.hardware;
  inherit (import ../lib/priorities.nix lib) chosen suggest;
  isGuest =
    lib.any (lib.hasPrefix "virtio") (
      config.boot.initrd.availableKernelModules ++ config.boot.initrd.kernelModules
    )
    || lib.elem "xen-blkfront" config.boot.initrd.kernelModules
    || config.services.qemuGuest.enable
    || config.services.xe-guest-utilities.enable
    || config.virtualisation.hypervGuest.enable
    || config.virtualisation.virtualbox.guest.enable
    || config.virtualisation.vmware.guest.enable;
in
{
  _class = "nixos";

  options.nixfleet.hardware = {
    enable = mkEnableOption "firmware, microcode, and the hardware that is set here";

    firmware = mkOption {
      type = types.bool;
      default = !config.boot.isContainer && !isGuest;
      defaultText = lib.literalMD "true, except in containers and in virtual machines: a host that has virtio drivers in stage 1, or the services of a guest";
      description = "Whether to install redistributable firmware, and the processor's microcode with it.";
    };

    bluetooth.enable = mkEnableOption "Bluetooth";

    nvidia = {
      enable = mkEnableOption "NVIDIA's driver, which is unfree: `nixpkgs.config` must allow it";
      open = mkOption {
        type = types.nullOr types.bool;
        default = null;
        example = true;
        description = ''
          Whether to use the driver's open kernel modules. Set true for Turing (GTX 16, RTX 20) and newer
          cards, of which the newest work with nothing else; set false for older ones. There is no safe
          default.
        '';
      };
    };

    wakeOnLan.interfaces = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "enp3s0" ];
      description = "Network interfaces that wake the machine on a magic packet.";
    };

    zram = {
      enable = mkEnableOption "compressed swap in memory";
      memoryPercent = mkOption {
        type = types.ints.between 1 200;
        default = 50;
        description = "How much data may be swapped into memory, measured before compression, in percent of the machine's memory.";
      };
    };

    legacyBoot = {
      enable = mkEnableOption "GRUB for machines that boot by BIOS";
      device = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "/dev/disk/by-id/ata-SAMSUNG_1234";
        description = "Disk to which GRUB is written. Null if disko names it, as with the BIOS disk templates.";
      };
    };

    secureBoot = {
      enable = mkEnableOption "secure boot with lanzaboote, whose module must be imported";
      pkiBundle = mkOption {
        type = types.str;
        default = "/var/lib/sbctl";
        description = "Directory of the keys that `sbctl create-keys` created on the machine.";
      };
    };
  };

  config = mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = [
          {
            assertion = cfg.nvidia.enable -> cfg.nvidia.open != null;
            message = "nixfleet.hardware.nvidia.open is not set. Set it to true for Turing (GTX 16, RTX 20) and newer cards, to false for older ones.";
          }
          {
            assertion = cfg.secureBoot.enable -> options.boot ? lanzaboote;
            message = "nixfleet.hardware.secureBoot.enable needs lanzaboote. Add lanzaboote.nixosModules.lanzaboote to the host's modules.";
          }
          {
            assertion = !(cfg.secureBoot.enable && cfg.legacyBoot.enable);
            message = "nixfleet.hardware.secureBoot.enable and nixfleet.hardware.legacyBoot.enable exclude each other: BIOS has no secure boot. Remove one.";
          }
        ];

        hardware.enableRedistributableFirmware = mkIf cfg.firmware (suggest true);
        hardware.cpu = mkIf pkgs.stdenv.hostPlatform.isx86 {
          amd.updateMicrocode = suggest config.hardware.enableRedistributableFirmware;
          intel.updateMicrocode = suggest config.hardware.enableRedistributableFirmware;
        };

        hardware.bluetooth.enable = mkIf cfg.bluetooth.enable (suggest true);
        hardware.nvidia.open = mkIf (cfg.nvidia.enable && cfg.nvidia.open != null) (
          chosen cfg.nvidia.open
        );
        services.xserver.videoDrivers = mkIf cfg.nvidia.enable [ "nvidia" ];

        networking.interfaces = lib.genAttrs cfg.wakeOnLan.interfaces (_: {
          wakeOnLan.enable = chosen true;
        });

        zramSwap = mkIf cfg.zram.enable {
          enable = chosen true;
          memoryPercent = suggest cfg.zram.memoryPercent;
        };

        boot.loader = mkIf (cfg.legacyBoot.enable && !cfg.secureBoot.enable) {
          grub.enable = chosen true;
          grub.device = mkIf (cfg.legacyBoot.device != null) (chosen cfg.legacyBoot.device);
          systemd-boot.enable = chosen false;
        };
      }
      (lib.optionalAttrs (options.boot ? lanzaboote) (
        mkIf cfg.secureBoot.enable {
          boot.lanzaboote.enable = chosen true;
          boot.lanzaboote.pkiBundle = chosen cfg.secureBoot.pkiBundle;
          # lanzaboote installs systemd-boot itself.
          boot.loader.systemd-boot.enable = chosen false;
        }
      ))
      (lib.optionalAttrs (options ? nixfleet.impermanence) {
        nixfleet.impermanence.directories = mkIf cfg.secureBoot.enable [ cfg.secureBoot.pkiBundle ];
      })
    ]
  );
}
