# SPDX-License-Identifier: MIT
# A storage server: systemd-boot, ZFS that asks for its key over SSH in stage 1, Samba and NFS.
{ sshKey, ... }:
{
  modules = [
    {
      boot.loader.systemd-boot.enable = true;
      boot.loader.efi.canTouchEfiVariables = true;
      boot.supportedFilesystems = [ "zfs" ];
      boot.zfs.requestEncryptionCredentials = true;
      boot.initrd.network = {
        enable = true;
        ssh = {
          enable = true;
          port = 2222;
          hostKeys = [ "/etc/secrets/initrd_host_key" ];
          authorizedKeys = [ sshKey ];
        };
      };
      networking.hostId = "deadbeef";
      fileSystems = {
        "/" = {
          device = "tank/root";
          fsType = "zfs";
        };
        "/boot" = {
          device = "/dev/disk/by-uuid/1234-ABCD";
          fsType = "vfat";
        };
        "/srv" = {
          device = "tank/srv";
          fsType = "zfs";
        };
      };
      services.zfs.autoScrub.enable = true;
      services.nfs.server.enable = true;
      services.samba.enable = true;
      networking.firewall.allowedTCPPorts = [
        445
        2049
      ];
      # Only in the management network.
      services.openssh = {
        enable = true;
        listenAddresses = [
          {
            addr = "10.0.0.5";
            port = 2200;
          }
        ];
      };
      users.users.alice = {
        isNormalUser = true;
        extraGroups = [ "wheel" ];
        hashedPassword = "$6$salt$hash";
        openssh.authorizedKeys.keys = [ sshKey ];
      };
    }
  ];
}
