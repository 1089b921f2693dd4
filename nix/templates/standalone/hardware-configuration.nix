# SPDX-License-Identifier: MIT
# Drivers for common servers and virtual machines. `nixos-generate-config --no-filesystems
# --show-hardware-config` prints what your machine needs; nixos-anywhere can write it here.
{ modulesPath, ... }:
{
  imports = [ (modulesPath + "/installer/scan/not-detected.nix") ];

  boot.initrd.availableKernelModules = [
    "ahci"
    "nvme"
    "sd_mod"
    "usb_storage"
    "virtio_blk"
    "virtio_pci"
    "virtio_scsi"
    "xhci_pci"
  ];
}
