# SPDX-License-Identifier: MIT
# The disk as nixos-anywhere formats it. Everything on it is lost.
{ inputs, ... }:
{
  imports = [
    inputs.disko.nixosModules.disko
    (inputs.nixfleet.scopes.disk-templates.ext4 { disk = "/dev/sda"; })
  ];
}
