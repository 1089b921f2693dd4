# SPDX-License-Identifier: MIT
# The demo fleet: its six machines evaluate, and are connected as the demo needs it.
{
  lib,
  harness,
  root,
}:
let
  nixfleet = (import (root + "/flake.nix")).outputs {
    self = nixfleet;
    inherit (harness) nixpkgs;
  };
  demo = (import (root + "/nix/demo/flake.nix")).outputs {
    self = demo;
    inherit nixfleet;
    inherit (harness) nixpkgs;
  };
  rootFile = builtins.toFile "root.json" "{}";
  key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDKmo2gJZQ4yyNXm9rSm2z7Pj7hRZWkRUh1oG0Jt5xSt test";

  # With the key edited and the root document made.
  hosts = lib.mapAttrs (
    name: host:
    harness.view (
      host.extendModules {
        modules = [
          {
            nixfleet.operators.rootSshKeys = lib.mkForce [ key ];
            services.nixfleet-agent = {
              enable = lib.mkForce true;
              package = harness.pkgs.hello;
              trust.rootFile = lib.mkForce rootFile;
            };
          }
        ]
        ++ lib.optional (name == "cp-01") {
          services.nixfleet-control-plane = {
            enable = lib.mkForce true;
            package = harness.pkgs.hello;
            trust.rootFile = lib.mkForce rootFile;
          };
        };
      }
    )
  ) demo.nixosConfigurations;

  evaluates = name: {
    expr = {
      inherit (hosts.${name}) failedAssertions warnings;
      evaluates = lib.hasSuffix ".drv" hosts.${name}.toplevel;
      vm = lib.hasSuffix ".drv" hosts.${name}.config.system.build.vm.drvPath;
      inherit (hosts.${name}.config.services.nixfleet-agent.settings) machineId tags;
    };
    expected = {
      failedAssertions = [ ];
      warnings = [ ];
      evaluates = true;
      vm = true;
      machineId = name;
      tags = {
        cache-01 = [ "cache" ];
        cp-01 = [ "control-plane" ];
        db-01 = [ "db" ];
        mon-01 = [ "monitoring" ];
        web-01 = [ "web" ];
        web-02 = [ "web" ];
      }.${name};
    };
  };
in
lib.mapAttrs' (name: _: lib.nameValuePair "${name} evaluates" (evaluates name)) hosts
// {
  "unedited, it names the placeholder" = {
    expr = map (lib.hasInfix "not an SSH public key") (harness.view demo.nixosConfigurations.web-01).failedAssertions;
    expected = [ true ];
  };
  "machines know each other by name" = {
    expr = hosts.web-01.config.networking.hosts."10.90.0.3";
    expected = [ "cp-01" ];
  };
  "prometheus scrapes every machine and the control plane" = {
    expr = lib.concatMap (job: (lib.head job.static_configs).targets) hosts.mon-01.config.services.prometheus.scrapeConfigs;
    expected = map (name: "${name}:9100") (lib.attrNames hosts) ++ [ "cp-01:9443" ];
  };
  "metrics are open between the machines only" =
    lib.elem 9443 hosts.cp-01.config.networking.firewall.interfaces.eth1.allowedTCPPorts
    && !lib.elem 9443 hosts.cp-01.config.networking.firewall.allowedTCPPorts;
  "there are apps for its machines" = {
    expr = lib.attrNames demo.apps.x86_64-linux;
    expected = [
      "build-vm"
      "clean-vm"
      "start-vm"
      "stop-vm"
      "test-vm"
    ];
  };
}
