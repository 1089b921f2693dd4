# SPDX-License-Identifier: MIT
# A database whose dump is backed up. For the demo, the backup goes to a disk of the same machine.
{ inputs, pkgs, ... }:
{
  imports = [ inputs.nixfleet.scopes.backup ];

  services.postgresql.enable = true;
  services.postgresqlBackup.enable = true;

  nixfleet.backup = {
    enable = true;
    jobs.dump = {
      paths = [ "/var/backup/postgresql" ];
      repository = "/var/lib/restic";
      passwordFile = "/var/lib/restic-password";
    };
  };

  systemd.services.restic-password = {
    description = "Make the password of the demo's backups";
    requiredBy = [ "restic-backups-dump.service" ];
    before = [ "restic-backups-dump.service" ];
    unitConfig.ConditionPathExists = "!/var/lib/restic-password";
    serviceConfig = {
      Type = "oneshot";
      UMask = "0077";
    };
    path = [ pkgs.openssl ];
    script = "openssl rand -hex 32 > /var/lib/restic-password";
  };

  services.nixfleet-agent = {
    tags = [ "db" ];
    healthChecks.systemd.postgresql = { };
  };
}
