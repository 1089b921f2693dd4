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
    # By BIOS and by UEFI.
    boot = {
      loader = system.config.system.boot.loader.id;
      biosDisks = system.config.boot.loader.grub.devices;
      efi = system.config.boot.loader.grub.efiSupport && system.config.boot.loader.grub.efiInstallAsRemovable;
      partition = system.config.fileSystems."/boot".fsType;
      partitions = lib.mapAttrs (_: partition: partition.type) system.config.disko.devices.disk.main.content.partitions;
    };
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
    boot = {
      loader = "grub";
      biosDisks = [ "/dev/sda" ];
      efi = true;
      partition = "vfat";
      partitions = {
        grub = "EF02";
        boot = "EF00";
        root = "8300";
      };
    };
    dhcp = true;
    sshd = true;
    passwords = false;
    ssh = true;
    rootKeys = [ key ];
    drivers = true;
  };
  # Whether NAME, who logs in with a key, can become root: the last rule of sudo that matches asks for no
  # password, or there is one.
  becomesRoot =
    name: system:
    let
      account = system.config.users.users.${name};
      matches = rule: lib.elem name rule.users || lib.any (group: lib.elem group account.extraGroups) rule.groups;
      rules = lib.filter matches system.config.security.sudo.extraRules;
    in
    account.openssh.authorizedKeys.keys == [ key ]
    && rules != [ ]
    && (
      lib.any (command: command.command == "ALL" && lib.elem "NOPASSWD" command.options) (lib.last rules).commands
      || account.hashedPasswordFile != null
    );

  # Files that TEXT names in backquotes, and that the template does not have.
  missingFiles =
    template:
    let
      quoted = map lib.head (lib.filter lib.isList (builtins.split "`([^`]*)`" template.welcomeText));
      isFile = text: builtins.match "[A-Za-z0-9/-]+([.](nix|toml|json|md)|/)|hosts/.*" text != null;
    in
    lib.filter (file: isFile file && !builtins.pathExists (template.path + "/${file}")) quoted;

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
        becomesRoot = becomesRoot "operator" system;
        agent = system.config.services.nixfleet-agent.enable;
      };
      expected = asExpected // {
        becomesRoot = true;
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
  "the texts name files that are there" = {
    expr = lib.mapAttrs (_: missingFiles) (removeAttrs nixfleet.templates [ "default" ]);
    expected = lib.mapAttrs (_: _: [ ]) (removeAttrs nixfleet.templates [ "default" ]);
  };
  "fleet: its machines are usable" =
    let
      system = edited fleet.web-01 [ (user "alice") ];
    in
    {
    expr = usable system // {
      names = lib.attrNames fleet;
      becomesRoot = becomesRoot "alice" system;
    };
    expected = asExpected // {
      becomesRoot = true;
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
        # The cache has its key before it starts.
        cache = system.config.systemd.services.harmonia.wantedBy;
        key = system.config.systemd.services.cache-key.requiredBy;
        bind = system.config.services.harmonia.settings.bind or system.config.services.harmonia.cache.settings.bind;
      };
      expected = agentAs "cp-01" [ "control-plane" ] // {
        ports = [
          5000
          8443
          8444
        ];
        service = [ "multi-user.target" ];
        cache = [ "multi-user.target" ];
        key = [ "harmonia.service" ];
        bind = "[::]:5000";
      };
    };
}
