# SPDX-License-Identifier: MIT
# Platform shim nixos-base: what a NixOS needs to boot, get an address and be reached, whatever its role.
# With the hardware-configuration.nix of nixos-generate-config it makes a host that can be deployed.
{ config, lib, ... }:
let
  inherit (lib) mkDefault mkIf mkOption;
  cfg = config.nixfleet.nixos-base;
in
{
  _class = "nixos";

  options.nixfleet.nixos-base = {
    enable = lib.mkEnableOption "a boot loader, DHCP, a synchronised clock and an SSH server that takes keys only";

    bootLoader = mkOption {
      type = lib.types.bool;
      default = !config.boot.isContainer;
      defaultText = lib.literalExpression "!config.boot.isContainer";
      description = ''
        Whether to boot by systemd-boot (UEFI) when nothing else is declared. A GRUB device, a BIOS disk
        template, {option}`nixfleet.hardware.legacyBoot` and lanzaboote all go before it.
      '';
    };
  };

  config = mkIf cfg.enable {
    # Below mkDefault, so that modules which bring a boot loader of their own need not force anything.
    boot.loader.systemd-boot.enable = mkIf (cfg.bootLoader && config.boot.loader.grub.device == "") (
      lib.mkOverride 1250 true
    );
    boot.loader.efi.canTouchEfiVariables = mkIf config.boot.loader.systemd-boot.enable (
      mkDefault true
    );
    # A full /boot makes every later switch fail.
    boot.loader.systemd-boot.configurationLimit = mkDefault 20;
    boot.loader.grub.configurationLimit = mkDefault 20;

    networking.useDHCP = mkDefault true;
    services.timesyncd.enable = mkDefault (!config.boot.isContainer);

    services.openssh = {
      enable = mkDefault true;
      settings = {
        KbdInteractiveAuthentication = mkDefault false;
        PasswordAuthentication = mkDefault false;
        PermitRootLogin = mkDefault "prohibit-password";
      };
    };
  };
}
