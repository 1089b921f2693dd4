# SPDX-License-Identifier: MIT
# What all machines have. Each has two interfaces: one to this machine, for SSH, and one to the others.
{
  config,
  lib,
  addresses,
  modulesPath,
  ...
}:
{
  imports = [ (modulesPath + "/virtualisation/qemu-vm.nix") ];

  # QEMU boots the kernel itself; a new one is there at the next start of the machine.
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

  # In force when `nixfleet trust init` has written trust/root.json.
  services.nixfleet-agent = {
    enable = builtins.pathExists ./trust/root.json;
    controlPlane.url = "https://cp-01:8444";
    trust.rootFile = ./trust/root.json;
    identity.tokenFile = "/var/lib/nixfleet/token";
    confirm.beacons = [ "tcp://${addresses.cache-01}:5000" ];
  };

  # In force when the key that cache-01 made at its first start is in cache.pub.
  services.nixfleet-cache = lib.mkIf (builtins.pathExists ./cache.pub) {
    enable = true;
    url = "http://cache-01:5000";
    publicKey = lib.removeSuffix "\n" (builtins.readFile ./cache.pub);
  };
}
