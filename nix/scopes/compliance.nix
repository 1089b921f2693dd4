# SPDX-License-Identifier: MIT
# Scope compliance (NixOS): where evidence is stored, who may read it, and that it survives a reboot and
# the loss of the disk. Controls, probes and the collector are separate modules.
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
  inherit (import ../lib/priorities.nix lib) suggest;
  group = "nixfleet-evidence";
  unknown = lib.filter (user: !(config.users.users ? ${user})) cfg.readers;
  # Impermanence always keeps /var/lib/nixfleet.
  isKept = lib.hasPrefix "/var/lib/nixfleet/" cfg.evidenceDirectory;
in
{
  _class = "nixos";

  options.nixfleet.compliance = {
    enable = lib.mkEnableOption "a directory for compliance evidence, and the tool that shows evidence";

    evidenceDirectory = mkOption {
      type = types.str;
      default = "/var/lib/nixfleet/evidence";
      description = "Directory to which evidence is written. root owns it; members of `${group}` may read it.";
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
      description = "The job of {option}`nixfleet.backup.jobs` that also backs up the evidence. Null: none.";
    };

    package = mkOption {
      type = types.nullOr types.package;
      default = pkgs.compliance-check or null;
      defaultText = lib.literalMD "`pkgs.compliance-check`, where NixFleet's overlay provides it";
      description = "The package of `compliance-check` to install. Null: none.";
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
            message = "nixfleet.compliance.evidenceDirectory is \"${cfg.evidenceDirectory}\", to which no evidence can be written. Give an absolute path outside the Nix store.";
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
          mode = suggest "0750";
          user = suggest "root";
          group = suggest group;
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
