# SPDX-License-Identifier: MIT
# disko's layout for BIOS and UEFI: disko itself names GRUB's disk, from the partition of type EF02.
{ inputs, sshKey, ... }:
{
  needs = [ "disko" ];
  modules = [
    inputs.disko.nixosModules.disko
    {
      boot.loader.grub = {
        efiSupport = true;
        efiInstallAsRemovable = true;
      };
      disko.devices.disk.system = {
        type = "disk";
        device = "/dev/disk/by-id/virtio-system";
        content = {
          type = "gpt";
          partitions = {
            bios = {
              size = "1M";
              type = "EF02";
            };
            esp = {
              size = "500M";
              type = "EF00";
              content = {
                type = "filesystem";
                format = "vfat";
                mountpoint = "/boot";
              };
            };
            root = {
              size = "100%";
              content = {
                type = "filesystem";
                format = "ext4";
                mountpoint = "/";
              };
            };
          };
        };
      };
      networking.useNetworkd = true;
      systemd.network.networks."10-wan" = {
        matchConfig.Name = "enp1s0";
        networkConfig.DHCP = "ipv4";
        address = [ "2001:db8::1/64" ];
        routes = [ { Gateway = "fe80::1"; } ];
      };
      services.openssh.enable = true;
      users.users.root.openssh.authorizedKeys.keys = [ sshKey ];
    }
  ];
}
