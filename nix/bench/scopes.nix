# SPDX-License-Identifier: MIT
# What scopes and roles need in addition to being enabled or imported. A scope that is not listed needs
# nothing.
{
  lib,
  inputs,
  needs,
  operator,
}:
let
  rooted = fsType: {
    boot.loader.grub.device = "/dev/vda";
    fileSystems."/persist" = {
      device = "/dev/disk/by-label/nixos";
      inherit fsType;
      neededForBoot = true;
    };
  };
  job = {
    paths = [ "/home" ];
    repository = "sftp:backup@nas:/backups/web-01";
    passwordFile = "/run/secrets/backup";
  };
in
{
  role-server = operator;
  role-workstation = operator // {
    imports = needs "home-manager" inputs.home-manager.nixosModules.home-manager;
  };
  role-endpoint = operator;
  role-microvm-guest = operator;
  nixos-base.nixfleet.nixos-base.enable = true;

  operators = lib.recursiveUpdate operator {
    nixfleet.operators.enable = true;
    services.openssh.enable = true;
  };
  generation-label.nixfleet.generation-label = {
    enable = true;
    revision = "0123456";
  };
  backup.nixfleet.backup = {
    enable = true;
    jobs.data = job;
  };
  disko = {
    imports = needs "disko" inputs.disko.nixosModules.disko;
    nixfleet.disko = {
      enable = true;
      template = "ext4";
      disk = "/dev/vda";
    };
    boot.loader.systemd-boot.enable = true;
  };
  home-manager = {
    imports = needs "home-manager" inputs.home-manager.nixosModules.home-manager;
    nixfleet.home-manager = {
      enable = true;
      user = "alice";
    };
    users.users.alice.isNormalUser = true;
  };
  impermanence = {
    imports = needs "impermanence" inputs.impermanence.nixosModules.impermanence ++ [ (rooted "ext4") ];
    nixfleet.impermanence.enable = true;
  };

  disk = name: {
    imports =
      needs "disko" inputs.disko.nixosModules.disko
      ++ lib.optionals (lib.hasInfix "impermanence" name) (
        needs "impermanence" inputs.impermanence.nixosModules.impermanence
      );
  };
}
