# SPDX-License-Identifier: MIT
# A host behind a firewall of its own network: none on the host, and another clock daemon.
{ sshKey, ... }:
{
  modules = [
    {
      boot.loader.systemd-boot.enable = true;
      fileSystems."/" = {
        device = "/dev/nvme0n1p2";
        fsType = "ext4";
      };
      fileSystems."/boot" = {
        device = "/dev/nvme0n1p1";
        fsType = "vfat";
      };
      networking.firewall.enable = false;
      services.chrony.enable = true;
      services.openssh.enable = true;
      users.users.root.openssh.authorizedKeys.keys = [ sshKey ];
      users.users.root.hashedPassword = "$6$salt$hash";
    }
  ];
}
