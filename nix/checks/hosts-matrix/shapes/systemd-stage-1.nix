# SPDX-License-Identifier: MIT
# An encrypted host that the TPM opens in systemd's stage 1, with networkd and resolved.
{ sshKey, ... }:
{
  modules = [
    {
      boot.loader.systemd-boot.enable = true;
      boot.loader.efi.canTouchEfiVariables = true;
      boot.initrd.systemd.enable = true;
      boot.initrd.luks.devices.root = {
        device = "/dev/disk/by-partlabel/root";
        crypttabExtraOpts = [ "tpm2-device=auto" ];
      };
      fileSystems."/" = {
        device = "/dev/mapper/root";
        fsType = "btrfs";
        options = [ "subvol=root" ];
      };
      fileSystems."/boot" = {
        device = "/dev/disk/by-partlabel/esp";
        fsType = "vfat";
      };
      networking.useNetworkd = true;
      networking.nftables = {
        enable = true;
        ruleset = ''
          table inet own {
            chain input {
              type filter hook input priority 0; policy accept;
              tcp dport 22 accept
            }
          }
        '';
      };
      services.resolved.enable = true;
      services.openssh.enable = true;
      services.openssh.startWhenNeeded = true;
      users.mutableUsers = false;
      users.users.root.openssh.authorizedKeys.keys = [ sshKey ];
    }
  ];
}
