# SPDX-License-Identifier: MIT
# A desktop with a wireless network that wpa_supplicant keeps, a screen that logs its user in, and no sshd.
_: {
  modules = [
    (
      { pkgs, ... }:
      {
        boot.loader.systemd-boot.enable = true;
        boot.loader.timeout = 0;
        fileSystems."/" = {
          device = "/dev/nvme0n1p2";
          fsType = "ext4";
        };
        fileSystems."/boot" = {
          device = "/dev/nvme0n1p1";
          fsType = "vfat";
        };
        networking.wireless = {
          enable = true;
          networks.home.psk = "not-a-secret";
        };
        services.xserver.enable = true;
        services.xserver.windowManager.i3.enable = true;
        services.displayManager.autoLogin = {
          enable = true;
          user = "alice";
        };
        services.printing.enable = true;
        hardware.bluetooth.enable = false;
        programs.zsh.enable = true;
        users.users.alice = {
          isNormalUser = true;
          extraGroups = [
            "video"
            "wheel"
          ];
          initialPassword = "changeme";
          shell = pkgs.zsh;
        };
      }
    )
  ];
}
