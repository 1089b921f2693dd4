# SPDX-License-Identifier: MIT
# Scope backup: units, schedules and credentials of the jobs. checks/real/backup.sh runs a real one.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) fires host onMac;
  scopes = import (root + "/nix/scopes");

  job = {
    paths = [
      "/home"
      "/var/lib/app"
    ];
    exclude = [ "*.tmp" ];
    repository = "sftp:backup@nas:/backups/web-01";
    passwordFile = "/run/secrets/backup";
  };
  with' =
    jobs: module:
    host [
      scopes.nixosModules.backup
      {
        nixfleet.backup = {
          enable = true;
          inherit jobs;
        };
      }
      module
    ];
  good = with' {
    data = job // {
      schedule = "02:30";
      retention.last = 3;
      preHook = "pg_dumpall > /var/lib/app/dump.sql";
      pingUrlFile = "/run/secrets/ping";
      environmentFile = "/run/secrets/env";
      restoreTest.enable = true;
    };
    vault = job // {
      backend = "borgbackup";
      repository = "borg@nas:vault";
      environmentFile = "/run/secrets/borg-env";
      sshKeyFile = "/run/secrets/borg-key";
      restoreTest.enable = true;
    };
  } { imports = [ scopes.nixosModules.monitoring { nixfleet.monitoring.enable = true; } ]; };
  text = unit: good.config.systemd.units.${unit}.text;
  inherit (good.config.systemd) services timers;
  has = unit: lib.all (line: lib.hasInfix line (text unit));

  onDarwin =
    job:
    onMac [
      scopes.darwinModules.backup
      {
        nixfleet.backup = {
          enable = true;
          jobs.data = job;
        };
      }
    ];
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.backup ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "a restic job backs up, then prunes" = has "restic-backups-data.service" [
    "RESTIC_REPOSITORY=sftp:backup@nas:/backups/web-01"
    "RESTIC_PASSWORD_FILE=/run/secrets/backup"
    "EnvironmentFile=/run/secrets/env"
    "forget --prune --keep-daily 7 --keep-last 3 --keep-monthly 6 --keep-weekly 4"
    "OnSuccess=nixfleet-backup-data-success.service"
    "OnFailure=nixfleet-backup-data-failure.service"
  ];
  "a job has its schedule, and runs later if it missed one" = {
    expr = timers.restic-backups-data.timerConfig;
    expected = {
      OnCalendar = "02:30";
      RandomizedDelaySec = "1h";
      Persistent = true;
    };
  };
  "a borg job encrypts, prunes and has a delay" =
    has "borgbackup-job-vault.service" [
      "BORG_REPO=borg@nas:vault"
      "EnvironmentFile=/run/secrets/borg-env"
      "OnSuccess=nixfleet-backup-vault-success.service"
    ]
    && lib.hasInfix "cat /run/secrets/backup" (lib.replaceStrings [ "'" ] [ "" ] good.config.services.borgbackup.jobs.vault.encryption.passCommand)
    && good.config.services.borgbackup.jobs.vault.prune.keep.daily == 7
    && timers.borgbackup-job-vault.timerConfig.RandomizedDelaySec == "1h";
  "the end of a job is recorded, exported and reported" =
    has "nixfleet-backup-data-failure.service" [
      "EVENT=failure"
      "StateDirectory=nixfleet/backup"
      "TEXTFILE_DIRECTORY=/var/lib/node-exporter-textfile"
      "ReadWritePaths=-/var/lib/node-exporter-textfile"
      "LoadCredential=ping-url:/run/secrets/ping"
    ]
    && !(lib.hasInfix "LoadCredential" (text "nixfleet-backup-vault-success.service"));
  "a restore test knows the repository and has its own schedule" =
    has "nixfleet-backup-data-restore-test.service" [
      "BACKEND=restic"
      "HOST=web-01"
      "RESTIC_REPOSITORY=sftp:backup@nas:/backups/web-01"
      "OnFailure=nixfleet-backup-data-restore-test-failure.service"
    ]
    && timers.nixfleet-backup-data-restore-test.timerConfig.OnCalendar == [ "monthly" ]
    && lib.hasInfix "/home /var/lib/app" (lib.replaceStrings [ "'" ] [ "" ] services.nixfleet-backup-data-restore-test.scriptArgs)
    && has "nixfleet-backup-vault-restore-test.service" [
      "ARCHIVES=web-01-vault-*"
      "BORG_PASSCOMMAND="
    ];
  "a borg job, and its restore test, use the SSH key that is set" =
    lib.all
      (
        unit:
        lib.replaceStrings [ "'" ] [ "" ] services.${unit}.environment.BORG_RSH
        == "ssh -i /run/secrets/borg-key -o IdentitiesOnly=yes"
      )
      [
        "borgbackup-job-vault"
        "nixfleet-backup-vault-restore-test"
      ];
  "hooks stop at the first error" =
    lib.hasInfix "set -eu\npg_dumpall" good.config.services.restic.backups.data.backupPrepareCommand;

  "fires: nothing to back up" = fires "nixfleet.backup.jobs.data.paths must list at least one path" (
    with' { data = job // { paths = [ ]; }; } { }
  );
  "fires: no repository" = fires "nixfleet.backup.jobs.data: set exactly one of repository" (
    with' { data = job // { repository = null; }; } {
      # restic's own module checks the same.
      services.restic.backups.data.repository = lib.mkForce "x";
    }
  );
  "fires: borg with a repository file" = fires "repositoryFile works only with restic" (
    with' {
      data = job // {
        backend = "borgbackup";
        repository = null;
        repositoryFile = "/run/x";
      };
    } { }
  );
  "fires: restic with an SSH key" = fires "sshKeyFile works only with borgbackup" (
    with' { data = job // { sshKeyFile = "/run/secrets/key"; }; } { }
  );
  "fires: an SSH key in the store" = fires "sshKeyFile is in the Nix store" (
    with' {
      data = job // {
        backend = "borgbackup";
        sshKeyFile = "${builtins.storeDir}/abc-key";
      };
    } { }
  );
  "fires: a secret in the store" = fires "a secret is in the Nix store" (
    with' { data = job // { passwordFile = "${builtins.storeDir}/abc-password"; }; } { }
  );

  "a Mac runs restic by launchd" = onDarwin (job // { pingUrlFile = "/etc/ping"; }) (
    mac:
    let
      daemon = mac.config.launchd.daemons.nixfleet-backup-data;
    in
    mac.failedAssertions == [ ]
    && map (time: time.Hour) daemon.serviceConfig.StartCalendarInterval == [ 12 ]
    && daemon.environment.RESTIC_REPOSITORY == "sftp:backup@nas:/backups/web-01"
    && lib.hasInfix "/var/lib/app" daemon.script
    && lib.hasInfix "--keep-daily=7" daemon.script
  );
  "a Mac: fires: borgbackup" = onDarwin (job // { backend = "borgbackup"; }) (fires "which macOS does not have");
  "a Mac: fires: nothing to back up" = onDarwin (job // { paths = [ "home" ]; }) (fires "and only absolute ones");
  "a Mac: fires: a secret in the store" = onDarwin (job // { passwordFile = "${builtins.storeDir}/abc"; }) (
    fires "a secret is in the Nix store"
  );
  "a Mac: fires: no repository" = onDarwin (job // { repository = null; }) (fires "set exactly one of repository");
}
