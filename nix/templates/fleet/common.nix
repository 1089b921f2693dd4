# SPDX-License-Identifier: MIT
# What all machines share, besides the role's DHCP, SSH with keys only, and firewall.
{ lib, modulesPath, ... }:
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

  # The agent is enabled once `nixfleet trust init` has written trust/root.json.
  services.nixfleet-agent = {
    enable = builtins.pathExists ./trust/root.json;
    controlPlane.url = "https://cp-01.example.org:8444";
    trust.rootFile = ./trust/root.json;
    identity.tokenFile = "/var/lib/nixfleet/token"; # the line that `nixfleet machine token` prints
  };

  # Enabled once cache.pub holds the public key of the cache, which cp-01 makes at its first start.
  services.nixfleet-cache = lib.mkIf (builtins.pathExists ./cache.pub) {
    enable = true;
    url = "http://cp-01.example.org:5000";
    publicKey = lib.removeSuffix "\n" (builtins.readFile ./cache.pub);
  };
}
