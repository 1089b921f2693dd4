# SPDX-License-Identifier: MIT
# Scope backup (nix-darwin): restic jobs as launchd daemons.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.backup;
  inherit (import ../../lib/priorities.nix lib) suggestSettings;

  keepArgs =
    job:
    lib.concatLists (
      lib.mapAttrsToList (
        unit: number: lib.optional (number != null) "--keep-${unit}=${toString number}"
      ) job.retention
    );

  script = name: job: ''
    ${lib.optionalString (job.environmentFile != null) "set -a; . ${lib.escapeShellArg job.environmentFile}; set +a"}
    ended() {
      result=$?
      ${job.postHook}
      ${lib.optionalString (job.pingUrlFile != null) ''
        url=$(cat ${lib.escapeShellArg job.pingUrlFile})
        [ "$result" = 0 ] || url=''${url%/}/fail
        printf 'url = "%s"\n' "$url" | /usr/bin/curl --config - --fail --silent --max-time 10 --retry 5 --output /dev/null || true
      ''}
      exit "$result"
    }
    trap ended EXIT
    set -eu
    ${job.preHook}
    ${lib.optionalString job.initialize "restic cat config >/dev/null 2>&1 || restic init"}
    restic backup ${lib.escapeShellArgs (map (pattern: "--exclude=${pattern}") job.exclude)} ${lib.escapeShellArgs job.paths}
    ${lib.optionalString (keepArgs job != [ ]) "restic forget --prune ${lib.escapeShellArgs (keepArgs job)}"}
  '';
in
{
  _class = "darwin";

  imports = [ ../options/backup.nix ];

  options.nixfleet.backup.jobs = mkOption {
    type = types.attrsOf (
      types.submodule {
        options.startCalendarInterval = mkOption {
          type = types.listOf (types.attrsOf types.int);
          default = [ { Hour = 12; } ];
          example = [
            {
              Hour = 2;
              Minute = 30;
            }
          ];
          description = "When the job runs, as in {manpage}`launchd.plist(5)`. If the Mac slept at that time, the job runs once when it wakes.";
        };
      }
    );
  };

  config = lib.mkIf cfg.enable {
    assertions = lib.mapAttrsToList (name: job: {
      assertion = job.backend == "restic";
      message = "nixfleet.backup.jobs.${name}.backend is ${job.backend}, which macOS does not have. Set it to \"restic\".";
    }) cfg.jobs;

    environment.systemPackages = lib.mkIf (cfg.jobs != { }) [ pkgs.restic ];

    launchd.daemons = lib.mapAttrs' (
      name: job:
      lib.nameValuePair "nixfleet-backup-${name}" {
        path = [
          pkgs.restic
          "/usr/bin"
          "/bin"
        ];
        script = script name job;
        environment = suggestSettings (
          {
            RESTIC_PASSWORD_FILE = job.passwordFile;
            RESTIC_CACHE_DIR = "/var/cache/restic-${name}";
          }
          // lib.optionalAttrs (job.repository != null) { RESTIC_REPOSITORY = job.repository; }
          // lib.optionalAttrs (job.repositoryFile != null) {
            RESTIC_REPOSITORY_FILE = job.repositoryFile;
          }
        );
        serviceConfig = suggestSettings {
          StartCalendarInterval = job.startCalendarInterval;
          LowPriorityIO = true;
          ProcessType = "Background";
          StandardErrorPath = "/var/log/nixfleet-backup-${name}.log";
          StandardOutPath = "/var/log/nixfleet-backup-${name}.log";
        };
      }
    ) cfg.jobs;
  };
}
