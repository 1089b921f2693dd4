# SPDX-License-Identifier: MIT
{ inputs, ... }:
{
  imports = [
    ../../web.nix
    (inputs.nixfleet.scopes.disk-templates.ext4 { disk = "/dev/sda"; })
  ];
}
