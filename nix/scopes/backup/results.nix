# SPDX-License-Identifier: MIT
# Part of scope backup: what happens when a job has ended, and the test that restores a backup.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.backup;
  inherit (import ../../lib/priorities.nix lib) suggest suggestSettings;
  unitOf =
    name: job:
    if job.backend == "restic" then "restic-backups-${name}" else "borgbackup-job-${name}";
  textfileDirectory = lib.optionalString (config.nixfleet.monitoring.enable or false) (
    toString config.nixfleet.monitoring.textfileDirectory
  );
  isBackends =
    variable: value: value != null && builtins.match "(BORG|RCLONE|RESTIC)_.*" variable != null;

  report =
    name: job: event:
    lib.nameValuePair "nixfleet-backup-${name}-${event}" {
      description = suggest "Record ${event} of backup ${name}";
      path = [ pkgs.curl ];
      environment = suggestSettings {
        BACKUP = name;
        EVENT = event;
        TEXTFILE_DIRECTORY = textfileDirectory;
      };
      script = builtins.readFile ./report.sh;
      serviceConfig = suggestSettings (import ../../modules/confinement.nix) // {
        Type = suggest "oneshot";
        CapabilityBoundingSet = suggest "";
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
        ];
        StateDirectory = suggest "nixfleet/backup";
        # As root, because root owns the exporter's directory. It can write nothing else.
        ReadWritePaths = lib.optional (textfileDirectory != "") "-${textfileDirectory}";
        LoadCredential = lib.optional (job.pingUrlFile != null) "ping-url:${job.pingUrlFile}";
      };
    };

  restoreTest =
    name: job:
    let
      tested = config.systemd.services.${unitOf name job};
      backend =
        if job.backend == "restic" then
          config.services.restic.backups.${name}.package
        else
          config.services.borgbackup.package;
    in
    lib.nameValuePair "nixfleet-backup-${name}-restore-test" {
      description = suggest "Restore backup ${name} to a temporary directory";
      path = [
        backend
        config.programs.ssh.package
        pkgs.findutils
      ];
      onSuccess = [ "nixfleet-backup-${name}-restore-test-success.service" ];
      onFailure = [ "nixfleet-backup-${name}-restore-test-failure.service" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      environment =
        suggestSettings (lib.filterAttrs isBackends tested.environment)
        // suggestSettings {
          BACKEND = job.backend;
          HOST = config.networking.hostName;
          # On disk: the backup may be too large for a tmpfs.
          TMPDIR = "/var/tmp";
          ARCHIVES = "${config.networking.hostName}-${name}-*";
        };
      scriptArgs = suggest (lib.escapeShellArgs job.paths);
      script = builtins.readFile ./restore-test.sh;
      startAt = suggest job.restoreTest.schedule;
      serviceConfig = {
        Type = suggest "oneshot";
        PrivateTmp = suggest true;
        CacheDirectory = lib.mkIf (job.backend == "restic") (suggest "restic-backups-${name}");
        CacheDirectoryMode = suggest "0700";
        EnvironmentFile = lib.mkIf (job.environmentFile != null) (suggest job.environmentFile);
      };
    };

  tested = lib.filterAttrs (_: job: job.restoreTest.enable) cfg.jobs;
in
{
  _class = "nixos";

  options.nixfleet.backup.jobs = mkOption {
    type = types.attrsOf (
      types.submodule {
        options.restoreTest = {
          enable = lib.mkEnableOption "a test that restores the whole newest backup";
          schedule = mkOption {
            type = types.str;
            default = "monthly";
            description = "When the restore test runs, as in {manpage}`systemd.time(7)`. It needs space for the whole backup in `/var/tmp`.";
          };
        };
      }
    );
  };

  config = lib.mkIf cfg.enable {
    systemd.services = lib.mkMerge [
      (lib.mapAttrs' (
        name: job:
        lib.nameValuePair (unitOf name job) {
          onSuccess = [ "nixfleet-backup-${name}-success.service" ];
          onFailure = [ "nixfleet-backup-${name}-failure.service" ];
        }
      ) cfg.jobs)
      (lib.listToAttrs (
        lib.concatLists (
          lib.mapAttrsToList (
            name: job:
            map (report name job) (
              [
                "success"
                "failure"
              ]
              ++ lib.optionals job.restoreTest.enable [
                "restore-test-success"
                "restore-test-failure"
              ]
            )
          ) cfg.jobs
        )
      ))
      (lib.mapAttrs' restoreTest tested)
    ];
  };
}
