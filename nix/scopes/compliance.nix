# SPDX-License-Identifier: MIT
# Scope compliance (NixOS): where evidence lies, who reads it, and that it outlives a reboot and the
# disk. Controls, probes and the collector are modules of their own.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.compliance;
  group = "nixfleet-evidence";
  unknown = lib.filter (user: !(config.users.users ? ${user})) cfg.readers;
  # /var/lib/nixfleet is kept anyway.
  isKept = lib.hasPrefix "/var/lib/nixfleet/" cfg.evidenceDirectory;
in
{
  _class = "nixos";

  options.nixfleet.compliance = {
    enable = lib.mkEnableOption "a place for compliance evidence, and the tool that shows it";

    evidenceDirectory = mkOption {
      type = types.str;
      default = "/var/lib/nixfleet/evidence";
      description = "Directory that evidence is written to. It belongs to root; members of `${group}` read it.";
    };

    readers = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "auditor" ];
      description = "Users who may read the evidence without becoming root.";
    };

    backupJob = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "data";
      description = "The job of {option}`nixfleet.backup.jobs` that backs the evidence up as well. Null backs it up with none.";
    };

    package = mkOption {
      type = types.nullOr types.package;
      default = pkgs.compliance-check or null;
      defaultText = lib.literalMD "`pkgs.compliance-check`, where NixFleet's overlay provides it";
      description = "The `compliance-check` to install. Null installs none.";
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = [
          {
            assertion =
              lib.hasPrefix "/" cfg.evidenceDirectory
              && !lib.hasPrefix "${builtins.storeDir}/" cfg.evidenceDirectory;
            message = "nixfleet.compliance.evidenceDirectory is \"${cfg.evidenceDirectory}\", which evidence cannot be written to. Give an absolute path outside of the Nix store.";
          }
          {
            assertion =
              cfg.backupJob == null || (options ? nixfleet.backup && config.nixfleet.backup.enable);
            message = "nixfleet.compliance.backupJob is \"${toString cfg.backupJob}\" but the backup scope is off. Import it and set nixfleet.backup.enable = true, or remove backupJob.";
          }
          {
            assertion = unknown == [ ];
            message = "nixfleet.compliance.readers: no such user: ${lib.concatStringsSep ", " unknown}. Declare it, for example in nixfleet.operators.users.";
          }
        ];

        users.groups.${group}.members = cfg.readers;
        systemd.tmpfiles.settings.nixfleet-compliance.${cfg.evidenceDirectory}.d = {
          mode = "0750";
          user = "root";
          inherit group;
        };
        environment.systemPackages = lib.optional (cfg.package != null) cfg.package;
      }
      (lib.optionalAttrs (options ? nixfleet.impermanence) {
        nixfleet.impermanence.directories = lib.mkIf (!isKept) [ cfg.evidenceDirectory ];
      })
      (lib.optionalAttrs (options ? nixfleet.backup) {
        nixfleet.backup.jobs = lib.mkIf (cfg.backupJob != null) {
          ${toString cfg.backupJob}.paths = [ cfg.evidenceDirectory ];
        };
      })
    ]
  );
}
