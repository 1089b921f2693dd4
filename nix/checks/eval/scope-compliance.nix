# SPDX-License-Identifier: MIT
# Scope compliance: where evidence is stored, who may read it, and that it is kept.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) fires host;
  scopes = import (root + "/nix/scopes");

  with' =
    compliance: modules:
    host (
      [
        scopes.nixosModules.compliance
        {
          nixfleet.compliance = {
            enable = true;
          } // compliance;
        }
      ]
      ++ modules
    );
  good = with' { readers = [ "auditor" ]; } [
    (
      { pkgs, ... }:
      {
        users.users.auditor.isNormalUser = true;
        nixfleet.compliance.package = pkgs.hello;
      }
    )
  ];
  elsewhere = with' { evidenceDirectory = "/srv/evidence"; backupJob = "data"; } [
    scopes.nixosModules.backup
    {
      config.nixfleet.backup = {
        enable = true;
        jobs.data = {
          paths = [ "/home" ];
          repository = "/mnt/backup";
          passwordFile = "/run/secrets/backup";
        };
      };
      options.nixfleet.impermanence.directories = lib.mkOption { type = lib.types.listOf lib.types.str; };
    }
  ];
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.compliance ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "the directory is root's, and readable to its group" = {
    expr = {
      inherit (good.config.systemd.tmpfiles.settings.nixfleet-compliance."/var/lib/nixfleet/evidence".d) mode user group;
    };
    expected = {
      mode = "0750";
      user = "root";
      group = "nixfleet-evidence";
    };
  };
  "readers are in the group" = good.config.users.groups.nixfleet-evidence.members == [ "auditor" ];
  "the tool is installed if it is set" =
    lib.any (package: lib.getName package == "hello") good.config.environment.systemPackages;
  "evidence elsewhere is kept and backed up" =
    elsewhere.config.nixfleet.impermanence.directories == [ "/srv/evidence" ]
    && lib.naturalSort elsewhere.config.services.restic.backups.data.paths == [
      "/home"
      "/srv/evidence"
    ]
    && elsewhere.failedAssertions == [ ];
  "fires: a directory that cannot be written to" = fires "nixfleet.compliance.evidenceDirectory is \"evidence\"" (
    with' { evidenceDirectory = "evidence"; } [ ]
  );
  "fires: a backup job without the backup scope" = fires "nixfleet.compliance.backupJob is \"data\" but the backup scope is off" (
    with' { backupJob = "data"; } [ ]
  );
  "fires: a reader that is not a user" = fires "nixfleet.compliance.readers: no such user: auditor" (
    with' { readers = [ "auditor" ]; } [ ]
  );
}
