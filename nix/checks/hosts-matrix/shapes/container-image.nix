# SPDX-License-Identifier: MIT
# A container of Proxmox: no boot loader, no kernel, and a name and network that come from outside.
{ sshKey, ... }:
{
  modules = [
    (
      { modulesPath, ... }:
      {
        imports = [ (modulesPath + "/virtualisation/proxmox-lxc.nix") ];
        users.users.root.openssh.authorizedKeys.keys = [ sshKey ];
      }
    )
  ];
}
