# SPDX-License-Identifier: MIT
# A Raspberry Pi: U-Boot reads extlinux.conf; the console user has a password hash.
{ sshKey, ... }:
{
  system = "aarch64-linux";
  modules = [
    {
      boot.loader.grub.enable = false;
      boot.loader.generic-extlinux-compatible.enable = true;
      boot.initrd.availableKernelModules = [
        "usbhid"
        "usb_storage"
        "vc4"
      ];
      hardware.enableRedistributableFirmware = true;
      fileSystems."/" = {
        device = "/dev/disk/by-label/NIXOS_SD";
        fsType = "ext4";
        options = [ "noatime" ];
      };
      networking.wireless = {
        enable = true;
        networks.workshop.psk = "not-a-secret";
      };
      services.openssh.enable = true;
      users.users.pi = {
        isNormalUser = true;
        extraGroups = [
          "gpio"
          "wheel"
        ];
        initialHashedPassword = "$6$salt$hash";
        openssh.authorizedKeys.keys = [ sshKey ];
      };
      users.groups.gpio = { };
    }
  ];
}
