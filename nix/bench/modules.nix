# SPDX-License-Identifier: MIT
# Every module that the flake exports, enabled on a host of its own.
{ root, harness }:
let
  built = import (root + "/nix/checks/eval/harness") harness;
  inherit (built) lib inputs;
  exported = import (root + "/nix/modules");
  scopes = import (root + "/nix/scopes");

  key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDKmo2gJZQ4yyNXm9rSm2z7Pj7hRZWkRUh1oG0Jt5xSt test";
  rootFile = builtins.toFile "root.json" "{}";
  base = {
    networking.hostName = "web-01";
    system.stateVersion = "24.11";
  };
  hardware = {
    boot.loader.grub.device = "/dev/vda";
    fileSystems."/" = {
      device = "/dev/vda1";
      fsType = "ext4";
    };
  };
  operator.nixfleet.operators.rootSshKeys = [ key ];
  needs = name: lib.optional (inputs.${name} != null);

  # What a module needs in addition to being enabled.
  services = {
    agent.services.nixfleet-agent = {
      enable = true;
      package = built.pkgs.hello;
      controlPlane.url = "https://fleet.example.org:8444";
      trust = { inherit rootFile; };
    };
    control-plane.services.nixfleet-control-plane = {
      enable = true;
      package = built.pkgs.hello;
      trust = { inherit rootFile; };
    };
    cache.services.nixfleet-cache = {
      enable = true;
      url = "https://cache.example.org";
      publicKey = "cache.example.org-1:QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
    };
    cache-server.services.nixfleet-cache-server = {
      enable = true;
      signingKeyFile = "/run/secrets/cache-key";
    };
    microvm-host = {
      imports = needs "microvm" inputs.microvm.nixosModules.host;
      services.nixfleet-microvm-host.enable = true;
    };
    core.hostSpec.timeZone = "Europe/Paris";
    default = { };
  };
  scopesNeed = import ./scopes.nix {
    inherit
      lib
      inputs
      needs
      operator
      ;
  };

  serviceHosts = lib.mapAttrs (name: config: [
    exported.nixosModules.${name}
    config
    hardware
  ]) services;
  scopeHosts = lib.mapAttrs (
    name: module:
    [
      module
      (scopesNeed.${name} or { nixfleet.${name}.enable = true; })
    ]
    # The disk layout provides the file systems that the other hosts boot from.
    ++ lib.optional (name != "disko") hardware
  ) (removeAttrs scopes.nixosModules (lib.optional (inputs.disko == null) "disko"));
  diskHosts = lib.mapAttrs' (
    name: template:
    lib.nameValuePair "disk-${name}" [
      (template (
        {
          disk = "/dev/vda";
        }
        // lib.optionalAttrs (name == "mirror") { secondDisk = "/dev/vdb"; }
      ))
      (scopesNeed.disk name)
    ]
  ) scopes.scopes.disk-templates;

  hosts =
    serviceHosts // scopeHosts // lib.optionalAttrs (inputs.disko != null) diskHosts;
in
{
  names = lib.concatStringsSep "\n" (lib.attrNames hosts);
  result =
    name:
    let
      system = built.nixos { modules = [ base ] ++ hosts.${name}; };
    in
    {
      evaluates = lib.hasSuffix ".drv" system.toplevel;
      failedAssertions = lib.length system.failedAssertions;
    };
}
