# SPDX-License-Identifier: MIT
# What the scripts of this folder run: rules, scripts and units as NixOS generates them.
{ root, harness }:
let
  built = import ../eval/harness harness;
  inherit (built) lib;
  scopes = import (root + "/nix/scopes");
  host =
    modules:
    (built.nixos {
      modules = [
        {
          networking.hostName = "web-01";
          system.stateVersion = "24.11";
          boot.loader.grub.enable = false;
          fileSystems."/" = lib.mkDefault {
            device = "/dev/vda1";
            fsType = "ext4";
          };
        }
      ]
      ++ modules;
    }).config;

  # The whole ruleset: NixOS's own firewall, and the scope's table before it.
  ruleset =
    limited:
    let
      config = host [
        scopes.nixosModules.firewall
        {
          nixfleet.firewall = {
            enable = true;
            sshRateLimit = {
              enable = limited;
              # One token per hour: no token is added while the test runs.
              connections = 1;
              per = "hour";
              burst = 3;
              exempt = [
                "10.99.0.9"
                "fd99:9::/64"
              ];
            };
          };
          networking.nftables.enable = true;
          services.openssh.enable = true;
          services.openssh.ports = [
            22
            2222
          ];
          networking.firewall.allowedTCPPorts = [ 80 ];
          networking.firewall.allowedUDPPorts = [ 53 ];
        }
      ];
    in
    lib.concatStrings (
      lib.mapAttrsToList (name: table: ''
        table ${table.family} ${name} {
          ${table.content}
        }
      '') config.networking.nftables.tables
    );

  backups = host [
    scopes.nixosModules.backup
    {
      nixfleet.backup = {
        enable = true;
        jobs.data = {
          paths = [ "@data@" ];
          exclude = [ "*.tmp" ];
          repository = "@repository@";
          passwordFile = "@password@";
          pingUrlFile = "@ping@";
          preHook = "touch @work@/hook-before";
          postHook = "touch @work@/hook-after";
          retention.daily = null;
          retention.weekly = null;
          retention.monthly = null;
          retention.last = 2;
          restoreTest.enable = true;
        };
        jobs.vault = {
          backend = "borgbackup";
          paths = [ "@data@" ];
          repository = "@repository@";
          passwordFile = "@password@";
          restoreTest.enable = true;
        };
      };
    }
  ];
  wiped = host [
    scopes.nixosModules.impermanence
    {
      nixfleet.impermanence.enable = true;
      fileSystems."/" = {
        device = "/dev/disk/by-label/nixos";
        fsType = "btrfs";
        options = [ "subvol=root" ];
      };
    }
  ];
  unit = name: backups.systemd.services.${name};
  asEnvironment =
    variables:
    lib.concatStrings (
      lib.mapAttrsToList (name: value: "export ${name}=${lib.escapeShellArg (toString value)}\n") (
        lib.filterAttrs (name: value: value != null && name != "PATH" && name != "LOCALE_ARCHIVE" && name != "TZDIR") variables
      )
    );
in
{
  limited = ruleset true;
  unlimited = ruleset false;

  rollback = builtins.readFile (root + "/nix/scopes/impermanence/rollback.sh");

  # What makes the key before secrets are decrypted, in a unit or in activation.
  hostKey =
    (host [
      scopes.nixosModules.secrets
      {
        nixfleet.secrets = {
          enable = true;
          hostKeyPath = "/@work@/a folder/ssh_host_ed25519_key";
        };
      }
    ]).systemd.services.nixfleet-host-key.script;

  # The commands of restic's unit in their order, as one script.
  backup = ''
    ${asEnvironment (unit "restic-backups-data").environment}
    before() {
      :
      ${(unit "restic-backups-data").preStart}
    }
    run() {
      :
      ${lib.concatStringsSep "\n" (unit "restic-backups-data").serviceConfig.ExecStart}
    }
    after() {
      :
      ${(unit "restic-backups-data").postStop}
    }
  '';
  backupHooks = {
    prepare = backups.services.restic.backups.data.backupPrepareCommand;
    cleanup = backups.services.restic.backups.data.backupCleanupCommand;
  };
  restoreTest = ''
    ${asEnvironment (unit "nixfleet-backup-data-restore-test").environment}
    set -- ${(unit "nixfleet-backup-data-restore-test").scriptArgs}
    ${(unit "nixfleet-backup-data-restore-test").script}
  '';
  borgRestoreTest = ''
    ${asEnvironment (unit "nixfleet-backup-vault-restore-test").environment}
    set -- ${(unit "nixfleet-backup-vault-restore-test").scriptArgs}
    ${(unit "nixfleet-backup-vault-restore-test").script}
  '';
  reportSuccess = ''
    ${asEnvironment (unit "nixfleet-backup-data-success").environment}
    ${(unit "nixfleet-backup-data-success").script}
  '';
  reportFailure = ''
    ${asEnvironment (unit "nixfleet-backup-data-failure").environment}
    ${(unit "nixfleet-backup-data-failure").script}
  '';

  # Units by name, of the machine and of its stage 1.
  units = lib.mapAttrs (_: unit: unit.text) (
    lib.filterAttrs (name: _: lib.hasPrefix "nixfleet-" name) (
      backups.systemd.units // wiped.boot.initrd.systemd.units
    )
  );
}
