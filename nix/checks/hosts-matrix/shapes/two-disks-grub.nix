# SPDX-License-Identifier: MIT
# A dedicated server with a software mirror: GRUB is written to both disks, root has the key.
{ sshKey, ... }:
{
  modules = [
    {
      boot.loader.grub.devices = [
        "/dev/disk/by-id/ata-A"
        "/dev/disk/by-id/ata-B"
      ];
      boot.swraid = {
        enable = true;
        mdadmConf = "MAILADDR root";
      };
      fileSystems."/" = {
        device = "/dev/md/root";
        fsType = "xfs";
      };
      services.openssh = {
        enable = true;
        ports = [ 2222 ];
        openFirewall = false;
      };
      networking.firewall.interfaces.enp1s0.allowedTCPPorts = [ 2222 ];
      users.users.root.openssh.authorizedKeys.keys = [ sshKey ];
    }
  ];
}
