# SPDX-License-Identifier: MIT
# Platform module nixos-base: what every NixOS host needs to boot, get an address and be reached by SSH,
# whatever its role. With the hardware-configuration.nix of nixos-generate-config it can be deployed.
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
        Whether to use systemd-boot (UEFI) when no other boot loader is declared. A GRUB device, a BIOS
        disk template, {option}`nixfleet.hardware.legacyBoot` and lanzaboote all take precedence.
      '';
    };
  };

  config = mkIf cfg.enable {
    # A lower priority than mkDefault, so that modules with a boot loader of their own override it.
    boot.loader.systemd-boot.enable = mkIf (cfg.bootLoader && config.boot.loader.grub.device == "") (
      lib.mkOverride 1250 true
    );
    boot.loader.efi.canTouchEfiVariables = mkIf config.boot.loader.systemd-boot.enable (
      mkDefault true
    );
    # When /boot is full, every later switch fails.
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
