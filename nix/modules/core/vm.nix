# SPDX-License-Identifier: MIT
# mkHost's isVm: a guest under QEMU, with virtio drivers and a console on the serial port.
{ lib, modulesPath, ... }:
{
  _class = "nixos";
  imports = [ (modulesPath + "/profiles/qemu-guest.nix") ];

  boot.kernelParams = [ "console=ttyS0,115200" ];
  services.qemuGuest.enable = lib.mkDefault true;
}
