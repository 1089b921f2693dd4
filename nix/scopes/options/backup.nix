# SPDX-License-Identifier: MIT
# Options of the backup scope and their assertions, the same on NixOS and nix-darwin.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.backup;

  keep =
    default: unit:
    mkOption {
      type = types.nullOr types.ints.positive;
      inherit default;
      description = "How many ${unit} backups to keep. Null: this rule keeps none.";
    };

  job = {
    options = {
      backend = mkOption {
        type = types.enum [
          "borgbackup"
          "restic"
        ];
        default = "restic";
        description = "Program that makes the backup. On macOS only restic is available.";
      };

      paths = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [
          "/home"
          "/var/lib/postgresql-dump"
        ];
        description = "Absolute paths to back up.";
      };

      exclude = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "/home/*/.cache" ];
        description = "Patterns of what to leave out, in the syntax of the backend.";
      };

      repository = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "sftp:backup@nas.example.org:/backups/web-01";
        description = "Where backups are stored, in the syntax of the backend. The text is world-readable in the Nix store.";
      };

      repositoryFile = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "/run/agenix/backup-repository";
        description = "File with the address of the repository, if the address is a secret. restic only.";
      };

      passwordFile = mkOption {
        type = types.str;
        example = "/run/agenix/backup-password";
        description = "File with the password that encrypts the repository. Keep a copy elsewhere than on the machine.";
      };

      environmentFile = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "/run/agenix/backup-environment";
        description = "File with `NAME=value` lines for the backend, for example `AWS_ACCESS_KEY_ID`.";
      };

      initialize = mkOption {
        type = types.bool;
        default = true;
        description = "Whether to create the repository when it does not exist.";
      };

      retention = {
        last = keep null "most recent";
        daily = keep 7 "daily";
        weekly = keep 4 "weekly";
        monthly = keep 6 "monthly";
        yearly = keep null "yearly";
      };

      preHook = mkOption {
        type = types.lines;
        default = "";
        example = "pg_dumpall > /var/lib/postgresql-dump/all.sql";
        description = "Shell commands to run before the backup. If one fails, nothing is backed up and the job fails.";
      };

      postHook = mkOption {
        type = types.lines;
        default = "";
        description = "Shell commands to run after the backup, also after a failure.";
      };

      pingUrlFile = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "/run/agenix/backup-ping-url";
        description = ''
          File with a URL that is fetched after each success, and with `/fail` appended after each failure.
          healthchecks.io and similar services use this scheme.
        '';
      };
    };
  };

  checks = name: job: [
    {
      assertion = job.paths != [ ] && lib.all (lib.hasPrefix "/") job.paths;
      message = "nixfleet.backup.jobs.${name}.paths must list at least one path, and only absolute ones.";
    }
    {
      assertion = (job.repository == null) != (job.repositoryFile == null);
      message = "nixfleet.backup.jobs.${name}: set exactly one of repository and repositoryFile.";
    }
    {
      assertion = !lib.any (file: lib.hasPrefix "${builtins.storeDir}/" (toString file)) [
        job.passwordFile
        job.environmentFile
        job.pingUrlFile
      ];
      message = "nixfleet.backup.jobs.${name}: a secret is in the Nix store, where everyone can read it. Give the path of a file on the machine as a string, for example the path of an agenix or sops-nix secret.";
    }
  ];
in
{
  options.nixfleet.backup = {
    enable = lib.mkEnableOption "backups with restic or borgbackup, and a record of when each last succeeded";

    jobs = mkOption {
      type = types.attrsOf (types.submodule job);
      default = { };
      example = lib.literalExpression ''
        {
          data = {
            paths = [ "/var/lib/app" ];
            repository = "sftp:backup@nas.example.org:/backups/web-01";
            passwordFile = config.age.secrets.backup.path;
          };
        }
      '';
      description = "Backup jobs by name. Each has its own unit and schedule.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = lib.concatLists (lib.mapAttrsToList checks cfg.jobs);
  };
}
