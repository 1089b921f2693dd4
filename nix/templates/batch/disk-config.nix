# SPDX-License-Identifier: MIT
# The disk that nixos-anywhere formats. Everything on it is lost.
{ inputs, ... }:
{
  imports = [
    inputs.disko.nixosModules.disko
    (inputs.nixfleet.scopes.disk-templates.ext4 { disk = "/dev/sda"; })
  ];
}
