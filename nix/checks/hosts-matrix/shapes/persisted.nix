# SPDX-License-Identifier: MIT
# A host whose root is empty at each boot: what is kept is listed, sshd's keys are there, agenix reads them.
{ inputs, sshKey, ... }:
{
  needs = [
    "agenix"
    "impermanence"
  ];
  modules = [
    inputs.agenix.nixosModules.default
    inputs.impermanence.nixosModules.impermanence
    {
      boot.loader.systemd-boot.enable = true;
      fileSystems = {
        "/" = {
          device = "none";
          fsType = "tmpfs";
          options = [ "mode=755" ];
        };
        "/boot" = {
          device = "/dev/disk/by-label/ESP";
          fsType = "vfat";
        };
        "/nix" = {
          device = "/dev/disk/by-label/nix";
          fsType = "ext4";
          neededForBoot = true;
        };
        "/persist" = {
          device = "/dev/disk/by-label/persist";
          fsType = "ext4";
          neededForBoot = true;
        };
      };
      environment.persistence."/persist" = {
        hideMounts = true;
        directories = [
          "/home"
          "/var/log"
          "/var/lib/nixos"
          {
            directory = "/var/lib/systemd";
            mode = "0755";
          }
        ];
        files = [ "/etc/machine-id" ];
      };
      services.openssh = {
        enable = true;
        hostKeys = [
          {
            path = "/persist/ssh/host_rsa";
            type = "rsa";
            bits = 4096;
          }
          {
            path = "/persist/ssh/host_ed25519";
            type = "ed25519";
          }
        ];
      };
      age.secrets.alice.file = ./persisted.nix;
      users.mutableUsers = false;
      users.users.alice = {
        isNormalUser = true;
        extraGroups = [ "wheel" ];
        hashedPasswordFile = "/run/agenix/alice";
        openssh.authorizedKeys.keys = [ sshKey ];
      };
    }
  ];
}
