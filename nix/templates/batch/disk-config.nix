# SPDX-License-Identifier: MIT
# The disk that nixos-anywhere formats. Everything on it is lost. The template hybrid boots by BIOS and by
# UEFI; for aarch64, take ext4.
{ inputs, ... }:
{
  imports = [
    inputs.disko.nixosModules.disko
    (inputs.nixfleet.scopes.disk-templates.hybrid { disk = "/dev/sda"; })
  ];
}
