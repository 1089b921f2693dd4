# SPDX-License-Identifier: MIT
# What all machines have.
{ lib, modulesPath, ... }:
{
  imports = [ (modulesPath + "/installer/scan/not-detected.nix") ];

  services.openssh = {
    enable = true;
    settings.PasswordAuthentication = false;
  };

  networking.useDHCP = lib.mkDefault true;

  boot.loader.systemd-boot.enable = true;
  boot.loader.efi.canTouchEfiVariables = true;
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

  # The machines join the fleet when `nixfleet trust init` has written trust/root.json.
  services.nixfleet-agent = lib.mkIf (builtins.pathExists ./trust/root.json) {
    enable = true;
    controlPlane.url = "https://cp-01.example.org:8444";
    trust.rootFile = ./trust/root.json;
    identity.tokenFile = "/var/lib/nixfleet/token";
  };
}
