# SPDX-License-Identifier: MIT
# The hosts whose evaluation is measured: the same hardware under plain nixosSystem, under mkHost with
# nothing enabled, and under mkHost with the server role.
{ root, harness }:
let
  built = import (root + "/nix/checks/eval/harness") harness;
  inherit (built) lib;
  inherit (import (root + "/nix/lib") { inherit (built) nixpkgs; }) mkHost;
  inherit (import (root + "/nix/scopes")) scopes;

  hardware = {
    boot.loader.systemd-boot.enable = true;
    boot.initrd.availableKernelModules = [
      "nvme"
      "virtio_pci"
    ];
    fileSystems."/" = {
      device = "/dev/vda2";
      fsType = "ext4";
    };
    fileSystems."/boot" = {
      device = "/dev/vda1";
      fsType = "vfat";
    };
    services.openssh.enable = true;
  };
  plain = built.nixpkgs.lib.nixosSystem {
    modules = [
      hardware
      {
        nixpkgs.hostPlatform = "x86_64-linux";
        networking.hostName = "web-01";
        system.stateVersion = "24.11";
      }
    ];
  };
  host =
    modules:
    mkHost {
      hostName = "web-01";
      platform = "x86_64-linux";
      stateVersion = "24.11";
      modules = [ hardware ] ++ modules;
    };
  server = host [
    scopes.roles.server
    {
      nixfleet.operators.rootSshKeys = [
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDKmo2gJZQ4yyNXm9rSm2z7Pj7hRZWkRUh1oG0Jt5xSt test"
      ];
      services.nixfleet-agent = {
        enable = true;
        package = built.pkgs.hello;
        controlPlane.url = "https://fleet.example.org:8444";
        trust.rootFile = builtins.toFile "root.json" "{}";
      };
    }
  ];
in
lib.mapAttrs (_: system: system.config.system.build.toplevel.drvPath) {
  inherit plain server;
  mkHost = host [ ];
}
