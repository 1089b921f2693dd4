# SPDX-License-Identifier: MIT
# Scope hardware: firmware, and the hardware that is enabled by name.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) fires host withInput;
  scopes = import (root + "/nix/scopes");

  with' =
    settings: module:
    host [
      scopes.nixosModules.hardware
      {
        nixfleet.hardware = {
          enable = true;
        } // settings;
      }
      module
    ];
  # What nixos-generate-config writes on an Intel machine without special hardware.
  generated = { config, ... }: { hardware.cpu.intel.updateMicrocode = lib.mkDefault config.hardware.enableRedistributableFirmware; };
  # A driver that evaluates without being unfree.
  driver =
    { pkgs, ... }:
    {
      hardware.nvidia.package = pkgs.hello // {
        useProfiles = false;
        version = "550.0";
        bin = pkgs.hello;
        open = pkgs.hello;
      };
    };
  good = with' {
    bluetooth.enable = true;
    wakeOnLan.interfaces = [ "enp3s0" ];
    zram.enable = true;
    zram.memoryPercent = 25;
  } generated;
  guest = with' { } {
    imports = [ generated ];
    services.qemuGuest.enable = true;
  };
  legacy = with' {
    legacyBoot.enable = true;
    legacyBoot.device = "/dev/sda";
  } { boot.loader.grub.device = lib.mkForce "/dev/sda"; };
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.hardware ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "firmware and microcode, in agreement with generated hardware" =
    good.config.hardware.enableRedistributableFirmware
    && good.config.hardware.cpu.intel.updateMicrocode
    && good.config.hardware.cpu.amd.updateMicrocode;
  "a QEMU guest gets neither" =
    !guest.config.hardware.enableRedistributableFirmware && !guest.config.hardware.cpu.intel.updateMicrocode;
  "nor does a machine with virtio disks" =
    !(with' { } { boot.initrd.availableKernelModules = [ "virtio_pci" ]; }).config.hardware.enableRedistributableFirmware;
  "Bluetooth, Wake-on-LAN and zram" =
    good.config.hardware.bluetooth.enable
    && good.config.networking.interfaces.enp3s0.wakeOnLan.enable
    && good.config.zramSwap.enable
    && good.config.zramSwap.memoryPercent == 25;
  "BIOS machines boot by GRUB" =
    legacy.config.boot.loader.grub.enable
    && !legacy.config.boot.loader.systemd-boot.enable
    && legacy.config.boot.loader.grub.devices == [ "/dev/sda" ];
  "NVIDIA's driver with the modules that were chosen" =
    let
      nvidia = with' {
        nvidia.enable = true;
        nvidia.open = true;
      } driver;
    in
    nvidia.config.services.xserver.videoDrivers == [ "nvidia" ] && nvidia.config.hardware.nvidia.open;
  "secure boot is lanzaboote's" = withInput "lanzaboote" (
    lanzaboote:
    let
      secure = with' { secureBoot.enable = true; } lanzaboote.nixosModules.lanzaboote;
    in
    secure.config.boot.lanzaboote.enable
    && secure.config.boot.lanzaboote.pkiBundle == "/var/lib/sbctl"
    && !secure.config.boot.loader.systemd-boot.enable
  );
  "with impermanence the keys of secure boot are kept" = {
    expr =
      (with' { secureBoot.enable = true; } {
        options.nixfleet.impermanence.directories = lib.mkOption { type = lib.types.listOf lib.types.str; };
      }).config.nixfleet.impermanence.directories;
    expected = [ "/var/lib/sbctl" ];
  };
  "fires: NVIDIA's modules are not chosen" = fires "nixfleet.hardware.nvidia.open is not set" (
    with' { nvidia.enable = true; } driver
  );
  "fires: secure boot without lanzaboote" = fires "nixfleet.hardware.secureBoot.enable needs lanzaboote" (
    with' { secureBoot.enable = true; } { }
  );
  "fires: secure boot on BIOS" = withInput "lanzaboote" (
    lanzaboote:
    fires "exclude each other" (
      with' {
        secureBoot.enable = true;
        legacyBoot.enable = true;
      } lanzaboote.nixosModules.lanzaboote
    )
  );
}
