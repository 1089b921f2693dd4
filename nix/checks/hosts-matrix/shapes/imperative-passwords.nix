# SPDX-License-Identifier: MIT
# What the graphical installer leaves: accounts whose passwords were set with passwd, and no key at all.
_: {
  modules = [
    {
      boot.loader.grub.enable = true;
      boot.loader.grub.device = "/dev/sda";
      boot.loader.grub.useOSProber = true;
      fileSystems."/" = {
        device = "/dev/disk/by-uuid/8a0d5d0c-52ac-4a34-8d75-c3ee2b2fd27b";
        fsType = "ext4";
      };
      networking.networkmanager.enable = true;
      services.openssh.enable = true;
      time.timeZone = "Europe/Berlin";
      users.users.alice = {
        isNormalUser = true;
        description = "Alice";
        extraGroups = [
          "networkmanager"
          "wheel"
        ];
      };
      users.users.bob.isNormalUser = true;
    }
  ];
}
