# SPDX-License-Identifier: MIT
# Scope backup (NixOS): jobs on NixOS's own restic and borgbackup modules.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  inherit (import ../lib/priorities.nix lib) chosen suggest;
  cfg = config.nixfleet.backup;
  jobsOf = backend: lib.filterAttrs (_: job: job.backend == backend) cfg.jobs;

  kept = job: lib.filterAttrs (_: number: number != null) job.retention;
  hook =
    text:
    if text == "" then
      null
    else
      ''
        #!${pkgs.runtimeShell}
        set -eu
        ${text}
      '';
in
{
  _class = "nixos";

  imports = [
    ./options/backup.nix
    ./backup/results.nix
  ];

  options.nixfleet.backup.jobs = mkOption {
    type = types.attrsOf (
      types.submodule {
        options = {
          schedule = mkOption {
            type = types.str;
            default = "daily";
            example = "*-*-* 02:30:00";
            description = "When the job runs, as in {manpage}`systemd.time(7)`. A run that was missed starts as soon as possible.";
          };
          randomDelay = mkOption {
            type = types.str;
            default = "1h";
            description = "Longest random delay of the start, so that not all machines of a fleet start at the same time.";
          };
          sshKeyFile = mkOption {
            type = types.nullOr types.str;
            default = null;
            example = "/run/agenix/backup-ssh-key";
            description = ''
              File with the SSH private key with which borgbackup reaches a repository on another host. Declare
              that host's key in {option}`programs.ssh.knownHosts`. Null: the keys of root.
            '';
          };
        };
      }
    );
  };

  config = lib.mkIf cfg.enable {
    assertions = lib.concatLists (
      lib.mapAttrsToList (name: job: [
        {
          assertion = job.repositoryFile == null || job.backend == "restic";
          message = "nixfleet.backup.jobs.${name}.repositoryFile works only with restic. Set repository, or backend = \"restic\".";
        }
        {
          assertion = job.sshKeyFile == null || job.backend == "borgbackup";
          message = "nixfleet.backup.jobs.${name}.sshKeyFile works only with borgbackup. For restic, name the key in programs.ssh.extraConfig.";
        }
        {
          assertion = !lib.hasPrefix "${builtins.storeDir}/" (toString job.sshKeyFile);
          message = "nixfleet.backup.jobs.${name}.sshKeyFile is in the Nix store, where everyone can read it. Give the path of a file on the machine as a string.";
        }
      ]) cfg.jobs
    );

    services.restic.backups = lib.mapAttrs (_: job: {
      inherit (job) paths exclude;
      repository = chosen job.repository;
      repositoryFile = chosen job.repositoryFile;
      passwordFile = chosen job.passwordFile;
      environmentFile = chosen job.environmentFile;
      initialize = chosen job.initialize;
      timerConfig = {
        OnCalendar = chosen job.schedule;
        RandomizedDelaySec = chosen job.randomDelay;
        Persistent = suggest true;
      };
      pruneOpts = lib.mapAttrsToList (unit: number: "--keep-${unit} ${toString number}") (kept job);
      backupPrepareCommand = chosen (hook job.preHook);
      backupCleanupCommand = chosen (hook job.postHook);
    }) (jobsOf "restic");

    services.borgbackup.jobs = lib.mapAttrs (_: job: {
      inherit (job) paths exclude preHook postHook;
      repo = chosen (toString job.repository);
      encryption.mode = suggest "repokey-blake2";
      encryption.passCommand = chosen "cat ${lib.escapeShellArg job.passwordFile}";
      environment = lib.mkIf (job.sshKeyFile != null) {
        BORG_RSH = chosen "ssh -i ${lib.escapeShellArg job.sshKeyFile} -o IdentitiesOnly=yes";
      };
      doInit = chosen job.initialize;
      startAt = chosen job.schedule;
      persistentTimer = suggest true;
      prune.keep = kept job;
    }) (jobsOf "borgbackup");

    systemd.timers = lib.mapAttrs' (
      name: job:
      lib.nameValuePair "borgbackup-job-${name}" { timerConfig.RandomizedDelaySec = chosen job.randomDelay; }
    ) (jobsOf "borgbackup");
    systemd.services = lib.mapAttrs' (
      name: job:
      lib.nameValuePair "borgbackup-job-${name}" {
        serviceConfig.EnvironmentFile = lib.mkIf (job.environmentFile != null) (chosen job.environmentFile);
      }
    ) (jobsOf "borgbackup");
  };
}
