# SPDX-License-Identifier: MIT
# A virtual machine whose firmware forgets its boot entries: GRUB at the path for removable media.
{ sshKey, ... }:
{
  modules = [
    (
      { modulesPath, ... }:
      {
        imports = [ (modulesPath + "/profiles/qemu-guest.nix") ];
        boot.loader.grub = {
          device = "nodev";
          efiSupport = true;
          efiInstallAsRemovable = true;
        };
        fileSystems."/" = {
          device = "/dev/vda2";
          fsType = "ext4";
        };
        fileSystems."/boot/efi" = {
          device = "/dev/vda1";
          fsType = "vfat";
        };
        boot.loader.efi.efiSysMountPoint = "/boot/efi";
        services.openssh.enable = true;
        users.users.root.openssh.authorizedKeys.keys = [ sshKey ];
        users.users.deploy = {
          isSystemUser = true;
          group = "deploy";
          useDefaultShell = true;
          openssh.authorizedKeys.keys = [ sshKey ];
        };
        users.groups.deploy = { };
      }
    )
  ];
}
