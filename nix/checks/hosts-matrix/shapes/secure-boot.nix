# SPDX-License-Identifier: MIT
# A laptop with secure boot: lanzaboote replaces systemd-boot.
{ inputs, ... }:
{
  needs = [ "lanzaboote" ];
  modules = [
    inputs.lanzaboote.nixosModules.lanzaboote
    (
      { lib, ... }:
      {
        boot.loader.systemd-boot.enable = lib.mkForce false;
        boot.lanzaboote = {
          enable = true;
          pkiBundle = "/etc/secureboot";
        };
        fileSystems."/" = {
          device = "/dev/nvme0n1p2";
          fsType = "ext4";
        };
        fileSystems."/boot" = {
          device = "/dev/nvme0n1p1";
          fsType = "vfat";
        };
        networking.networkmanager.enable = true;
        users.mutableUsers = false;
        users.users.alice = {
          isNormalUser = true;
          extraGroups = [ "wheel" ];
          hashedPassword = "$6$salt$hash";
        };
      }
    )
  ];
}
