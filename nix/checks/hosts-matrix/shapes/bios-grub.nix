# SPDX-License-Identifier: MIT
# A rented server that boots by BIOS: GRUB on one disk, a fixed address, one administrator with a key.
{ sshKey, ... }:
{
  modules = [
    {
      boot.loader.grub.enable = true;
      boot.loader.grub.device = "/dev/sda";
      fileSystems."/" = {
        device = "/dev/sda1";
        fsType = "ext4";
      };
      networking = {
        useDHCP = false;
        interfaces.ens3.ipv4.addresses = [
          {
            address = "192.0.2.10";
            prefixLength = 24;
          }
        ];
        defaultGateway = "192.0.2.1";
        nameservers = [ "192.0.2.53" ];
      };
      services.openssh.enable = true;
      users.users.alice = {
        isNormalUser = true;
        extraGroups = [ "wheel" ];
        openssh.authorizedKeys.keys = [ sshKey ];
      };
      security.sudo.wheelNeedsPassword = false;
    }
  ];
}
