# SPDX-License-Identifier: MIT
# The templates: once the placeholder is replaced, the result of `nix flake init` is a machine that boots,
# gets an address, lets the operator log in and can be deployed again.
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
  key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDKmo2gJZQ4yyNXm9rSm2z7Pj7hRZWkRUh1oG0Jt5xSt test";

  hostsOf =
    name:
    let
      self = (import (nixfleet.templates.${name}.path + "/flake.nix")).outputs inputs;
      inputs = {
        inherit self nixfleet;
        inherit (harness) nixpkgs;
        inherit (harness.inputs) disko;
      };
    in
    self.nixosConfigurations;
  edited =
    host: modules:
    harness.view (
      host.extendModules {
        modules = modules ++ [
          {
            nixfleet.operators.rootSshKeys = lib.mkForce [ key ];
          }
        ];
      }
    );
  user = name: { nixfleet.operators.users.${name}.sshKeys = lib.mkForce [ key ]; };
  joined = {
    services.nixfleet-agent = {
      enable = lib.mkForce true;
      package = harness.pkgs.hello;
      trust.rootFile = lib.mkForce (builtins.toFile "root.json" "{}");
    };
  };

  # What an installed machine needs to be usable.
  usable = system: {
    inherit (system) failedAssertions;
    evaluates = lib.hasSuffix ".drv" system.toplevel;
    root = system.config.fileSystems."/".fsType;
    efi = system.config.fileSystems ? "/boot";
    bootLoader = system.config.boot.loader.systemd-boot.enable;
    dhcp = system.config.networking.useDHCP;
    sshd = system.config.services.openssh.enable;
    passwords = system.config.services.openssh.settings.PasswordAuthentication;
    ssh = lib.elem 22 system.config.networking.firewall.allowedTCPPorts;
    rootKeys = system.config.users.users.root.openssh.authorizedKeys.keys;
    drivers = lib.all (driver: lib.elem driver system.config.boot.initrd.availableKernelModules) [
      "nvme"
      "virtio_pci"
    ];
  };
  asExpected = {
    failedAssertions = [ ];
    evaluates = true;
    root = "ext4";
    efi = true;
    bootLoader = true;
    dhcp = true;
    sshd = true;
    passwords = false;
    ssh = true;
    rootKeys = [ key ];
    drivers = true;
  };
  agent = system: {
    inherit (system) failedAssertions;
    evaluates = lib.hasSuffix ".drv" system.toplevel;
    runs = system.config.systemd.services.nixfleet-agent.wantedBy;
    watchdog = system.config.systemd.timers.nixfleet-watchdog.wantedBy;
    inherit (system.config.services.nixfleet-agent.settings) machineId tags;
  };
  agentAs = machineId: tags: {
    failedAssertions = [ ];
    evaluates = true;
    runs = [ "multi-user.target" ];
    watchdog = [ "timers.target" ];
    inherit machineId tags;
  };

  standalone = (hostsOf "standalone").myhost;
  batch = hostsOf "batch";
  fleet = hostsOf "fleet";
  withDisko = tests: if harness.inputs.disko == null then { "all" = { skip = "INPUTS has no disko"; }; } else tests;
in
withDisko {
  "standalone: unedited, it names the placeholder" = {
    expr = map (lib.hasInfix "not an SSH public key") (harness.view standalone).failedAssertions;
    expected = [ true ];
  };
  "standalone: with a key it is usable, and has no agent yet" =
    let
      system = edited standalone [ (user "operator") ];
    in
    {
      expr = usable system // {
        login = system.config.users.users.operator.openssh.authorizedKeys.keys;
        agent = system.config.services.nixfleet-agent.enable;
      };
      expected = asExpected // {
        login = [ key ];
        agent = false;
      };
    };
  "standalone: with a root document it joins a fleet" = {
    expr = agent (
      edited standalone [
        (user "operator")
        joined
      ]
    );
    expected = agentAs "myhost" [ ];
  };
  "batch: every machine is usable, and they differ only by name" =
    let
      system = edited batch.node-02 [ ];
    in
    {
      expr = usable system // {
        names = lib.attrNames batch;
        name = system.config.networking.hostName;
      };
      expected = asExpected // {
        names = [
          "node-01"
          "node-02"
          "node-03"
        ];
        name = "node-02";
      };
    };
  "batch: with a root document it joins a fleet" = {
    expr = agent (edited batch.node-01 [ joined ]);
    expected = agentAs "node-01" [ "node" ];
  };
  "fleet: its machines are usable" = {
    expr = usable (edited fleet.web-01 [ (user "alice") ]) // {
      names = lib.attrNames fleet;
    };
    expected = asExpected // {
      names = [
        "cp-01"
        "web-01"
        "web-02"
      ];
    };
  };
  "fleet: with a root document they join it" = {
    expr = agent (
      edited fleet.web-02 [
        (user "alice")
        joined
      ]
    );
    expected = agentAs "web-02" [ "web" ];
  };
  "fleet: with a root document there is a control plane" =
    let
      system = edited fleet.cp-01 [
        (user "alice")
        joined
        {
          services.nixfleet-control-plane = {
            enable = lib.mkForce true;
            package = harness.pkgs.hello;
            trust.rootFile = lib.mkForce (builtins.toFile "root.json" "{}");
          };
        }
      ];
    in
    {
      expr = agent system // {
        ports = lib.subtractLists [ 22 ] system.config.networking.firewall.allowedTCPPorts;
        service = system.config.systemd.services.nixfleet-control-plane.wantedBy;
      };
      expected = agentAs "cp-01" [ "control-plane" ] // {
        ports = [
          8443
          8444
        ];
        service = [ "multi-user.target" ];
      };
    };
}
