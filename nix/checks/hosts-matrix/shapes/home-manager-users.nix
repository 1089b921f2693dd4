# SPDX-License-Identifier: MIT
# A workstation whose owner has a home-manager configuration of his own, with its own packages.
{ inputs, sshKey, ... }:
{
  needs = [ "home-manager" ];
  modules = [
    inputs.home-manager.nixosModules.home-manager
    (
      { lib, pkgs, ... }:
      {
        boot.loader.systemd-boot.enable = true;
        boot.loader.efi.canTouchEfiVariables = true;
        fileSystems."/" = {
          device = "/dev/nvme0n1p2";
          fsType = "btrfs";
        };
        fileSystems."/boot" = {
          device = "/dev/nvme0n1p1";
          fsType = "vfat";
        };
        programs.fish.enable = true;
        services.openssh.enable = true;
        users.users.alice = {
          isNormalUser = true;
          uid = 1001;
          description = lib.mkDefault "Alice";
          extraGroups = [ "wheel" ];
          hashedPassword = "$6$salt$hash";
          openssh.authorizedKeys.keys = [ sshKey ];
          shell = pkgs.fish;
        };
        home-manager.backupFileExtension = lib.mkDefault "old";
        home-manager.users.alice = {
          home.stateVersion = "23.11";
          home.packages = [ pkgs.hello ];
          nixpkgs.config.allowUnfree = true;
        };
      }
    )
  ];
}
