# SPDX-License-Identifier: MIT
{ inputs, ... }:
{
  imports = [
    ../../web.nix
    (inputs.nixfleet.scopes.disk-templates.hybrid { disk = "/dev/sda"; })
  ];
}
