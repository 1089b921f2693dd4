# SPDX-License-Identifier: MIT
# Two disks with an EFI partition each: GRUB is mirrored, the root is a ZFS mirror.
{ sshKey, ... }:
{
  modules = [
    {
      boot.loader.grub = {
        enable = true;
        efiSupport = true;
        efiInstallAsRemovable = true;
        zfsSupport = true;
        mirroredBoots = [
          {
            devices = [ "nodev" ];
            path = "/boot0";
          }
          {
            devices = [ "nodev" ];
            path = "/boot1";
          }
        ];
      };
      boot.supportedFilesystems = [ "zfs" ];
      networking.hostId = "8425e349";
      fileSystems = {
        "/" = {
          device = "rpool/root";
          fsType = "zfs";
        };
        "/boot0" = {
          device = "/dev/disk/by-id/nvme-A-part1";
          fsType = "vfat";
        };
        "/boot1" = {
          device = "/dev/disk/by-id/nvme-B-part1";
          fsType = "vfat";
        };
      };
      services.openssh.enable = true;
      services.openssh.settings.PasswordAuthentication = false;
      users.users.root.openssh.authorizedKeys.keys = [ sshKey ];
    }
  ];
}
