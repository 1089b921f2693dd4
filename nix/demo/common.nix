# SPDX-License-Identifier: MIT
# What all machines share. Each has two interfaces: one to the machine that runs QEMU, for SSH, and one
# to the other machines.
{
  config,
  lib,
  addresses,
  modulesPath,
  ...
}:
{
  imports = [ (modulesPath + "/virtualisation/qemu-vm.nix") ];

  # QEMU boots the kernel itself, so a new kernel runs at the next start of the machine.
  nixfleet.nixos-base.bootLoader = false;
  boot.loader.grub.enable = false;

  networking = {
    usePredictableInterfaceNames = false;
    interfaces.eth1.ipv4.addresses = [
      {
        address = addresses.${config.networking.hostName};
        prefixLength = 24;
      }
    ];
    hosts = lib.mapAttrs' (name: address: lib.nameValuePair address [ name ]) addresses;
  };

  nixfleet.monitoring.openFirewallOn = [ "eth1" ];

  # Enabled once `nixfleet trust init` has written trust/root.json.
  services.nixfleet-agent = {
    enable = builtins.pathExists ./trust/root.json;
    controlPlane.url = "https://cp-01:8444";
    trust.rootFile = ./trust/root.json;
    identity.tokenFile = "/var/lib/nixfleet/token";
    confirm.beacons = [ "tcp://${addresses.cache-01}:5000" ];
  };

  # Enabled once cache.pub holds the key that cache-01 made at its first start.
  services.nixfleet-cache = lib.mkIf (builtins.pathExists ./cache.pub) {
    enable = true;
    url = "http://cache-01:5000";
    publicKey = lib.removeSuffix "\n" (builtins.readFile ./cache.pub);
  };
}
