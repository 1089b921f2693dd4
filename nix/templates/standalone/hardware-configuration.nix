# SPDX-License-Identifier: MIT
# Drivers for common servers and virtual machines. `nixos-generate-config --no-filesystems
# --show-hardware-config` prints what your machine has; nixos-anywhere writes it here by itself.
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
