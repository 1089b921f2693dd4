# SPDX-License-Identifier: MIT
# Hosts that together use every part of every module, so that each option of NixOS that a module sets is set
# on one of them. Not nvidia, whose module needs real packages.
{
  lib,
  harness,
  root,
}:
let
  modules = (import (root + "/nix/modules")).nixosModules;
  inherit (import (root + "/nix/scopes")) scopes nixosModules;
  inherit (harness) inputs;
  input = name: module: lib.optional (inputs.${name} != null) module;
  key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDKmo2gJZQ4yyNXm9rSm2z7Pj7hRZWkRUh1oG0Jt5xSt test";
  rootFile = builtins.toFile "root.json" "{}";
  secret = name: "/run/secrets/${name}";

  base = {
    networking.hostName = "web-01";
    system.stateVersion = "24.11";
    fileSystems."/" = {
      device = "/dev/vda1";
      fsType = "ext4";
    };
  };
  operators.nixfleet.operators = {
    users.alice = {
      isAdmin = true;
      passwordlessSudo = true;
      uid = 1000;
      sshKeys = [ key ];
      hashedPasswordFile = secret "alice";
      shell = "zsh";
    };
    users.bob.shell = "fish";
    deploy.sshKeys = [ key ];
  };
  job = {
    paths = [ "/home" ];
    repository = "sftp:backup@nas:/backups/web-01";
    passwordFile = secret "backup";
    environmentFile = secret "environment";
    pingUrlFile = secret "ping";
    preHook = "true";
    restoreTest.enable = true;
  };
  diskHost =
    template: args:
    lib.optionals (inputs.disko != null) [
      {
        networking.hostName = "web-01";
        system.stateVersion = "24.11";
      }
      inputs.disko.nixosModules.disko
      (scopes.disk-templates.${template} (args // { disk = "/dev/vda"; }))
    ];
in
{
  server = [
    base
    operators
    nixosModules.role-server
    nixosModules.backup
    nixosModules.compliance
    nixosModules.monitoring-server
    nixosModules.remote-builders
    nixosModules.vpn
    modules.default
    {
      nixfleet = {
        backup = {
          enable = true;
          jobs.data = job;
          jobs.vault = job // {
            backend = "borgbackup";
            sshKeyFile = secret "borg";
          };
        };
        compliance = {
          enable = true;
          readers = [ "bob" ];
        };
        generation-label = {
          enable = true;
          revision = "0123456";
        };
        hardware = {
          bluetooth.enable = true;
          legacyBoot.enable = true;
          legacyBoot.device = "/dev/vda";
          wakeOnLan.interfaces = [ "eth0" ];
          zram.enable = true;
        };
        monitoring.openFirewallOn = [ "wg0" ];
        monitoring-server = {
          enable = true;
          nodes = [ "web-01:9100" ];
          scrapeInterval = "15s";
          ruleGroups = [ { name = "own"; } ];
          controlPlane = {
            target = "cp-01:9443";
            caFile = "/etc/ca.crt";
          };
          alertmanager = {
            enable = true;
            settings.receivers = [ { name = "team"; } ];
          };
          grafana = {
            enable = true;
            adminPasswordFile = secret "grafana";
          };
        };
        o11y = {
          metrics.url = "https://metrics.example.org/api/v1/write";
          metrics.username = "web-01";
          metrics.passwordFile = secret "metrics";
          journal.url = "https://logs.example.org:19532";
        };
        vpn = {
          enable = true;
          profiles.wg0 = {
            address = [ "10.8.0.2/24" ];
            privateKeyFile = secret "wg0";
            listenPort = 51820;
            openFirewall = true;
            peers = [
              {
                publicKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
                allowedIPs = [ "0.0.0.0/0" ];
              }
            ];
          };
        };
      };
      security.acme = {
        acceptTerms = true;
        defaults.email = "operators@example.org";
      };
      services = {
        nixfleet-agent = {
          enable = true;
          package = harness.pkgs.hello;
          controlPlane.url = "https://fleet.example.org:8444";
          trust = { inherit rootFile; };
        };
        nixfleet-control-plane = {
          enable = true;
          package = harness.pkgs.hello;
          trust = { inherit rootFile; };
          openFirewall = true;
          backup.passphraseFile = secret "backup";
        };
        nixfleet-cache = {
          enable = true;
          url = "https://cache.example.org";
          publicKey = "cache.example.org-1:QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
        };
        nixfleet-cache-server = {
          enable = true;
          signingKeyFile = secret "cache";
          virtualHost = "cache.example.org";
          openFirewall = true;
          gc.enable = true;
        };
      };
    }
  ];
  workstation = [
    base
    operators
    nixosModules.role-workstation
  ]
  ++ input "home-manager" inputs.home-manager.nixosModules.home-manager;
  microvms = lib.optionals (inputs.microvm != null) [
    base
    inputs.microvm.nixosModules.host
    modules.microvm-host
    { services.nixfleet-microvm-host.enable = true; }
  ];
  guest = [
    base
    operators
    nixosModules.role-microvm-guest
  ];
  kept =
    diskHost "luks-btrfs-impermanence" { tpm2 = true; }
    ++ lib.optionals (inputs.disko != null) (
      [
        operators
        nixosModules.role-endpoint
      ]
      ++ input "impermanence" inputs.impermanence.nixosModules.impermanence
    );
  mirror = diskHost "mirror" {
    secondDisk = "/dev/vdb";
    swapSize = "4G";
  };
  zfs = diskHost "zfs" { };
  uefi = diskHost "btrfs" { };
}
