# SPDX-License-Identifier: MIT
# Scope impermanence: what is kept, and that the root is replaced before it is mounted. The script
# itself runs on a real btrfs in checks/real/rollback.sh.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) bareHost host withInput;
  scopes = import (root + "/nix/scopes");

  disks = {
    boot.loader.grub.device = "/dev/vda";
    fileSystems."/" = {
      device = "/dev/disk/by-label/nixos";
      fsType = "btrfs";
      options = [
        "subvol=root"
        "noatime"
      ];
    };
    fileSystems."/persist" = {
      device = "/dev/disk/by-label/nixos";
      fsType = "btrfs";
      options = [ "subvol=persist" ];
      neededForBoot = true;
    };
  };
  with' =
    impermanence: module:
    bareHost [
      harness.inputs.impermanence.nixosModules.impermanence
      scopes.nixosModules.impermanence
      disks
      {
        nixfleet.impermanence = {
          enable = true;
        } // impermanence;
      }
      module
    ];
  good = with' {
    directories = [ "/var/lib/postgresql" ];
    files = [ "/etc/adjtime" ];
    rollback.keep = 5;
  } { };
  kept = good.config.environment.persistence."/persist";
  unit = good.config.boot.initrd.systemd.services.nixfleet-rollback;
  onTmpfs = with' { home = false; } {
    fileSystems."/" = lib.mkForce {
      device = "none";
      fsType = "tmpfs";
    };
  };
  # impermanence has checks of its own that may fail with ours.
  firesAmong = text: evaluation: lib.any (lib.hasInfix text) evaluation.failedAssertions;
  tests = {
    "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
    "what is listed is kept, and what NixOS needs" =
      lib.all (dir: lib.any (d: d.dirPath == dir) kept.directories) [
        "/var/lib/postgresql"
        "/var/lib/nixos"
        "/var/lib/nixfleet"
        "/var/log"
        "/home"
      ]
      && map (f: f.filePath) kept.files == [
        "/etc/machine-id"
        "/etc/adjtime"
      ];
    "what the host keeps itself is not listed twice" = {
      expr =
        let
          evaluation = with' { } (
            { config, ... }:
            {
              environment.persistence."/persist" = lib.mkIf config.networking.firewall.enable {
                directories = [
                  "/var/log"
                  { directory = "/home"; }
                ];
                files = lib.mkMerge [ [ "/etc/machine-id" ] ];
              };
            }
          );
        in
        {
          inherit (evaluation) failedAssertions;
          logs = lib.count (d: d.dirPath == "/var/log") evaluation.config.environment.persistence."/persist".directories;
        };
      expected = {
        failedAssertions = [ ];
        logs = 1;
      };
    };
    "the root is replaced after its device is there and before it is mounted" = {
      expr = {
        inherit (unit)
          wantedBy
          wants
          after
          before
          requires
          requiredBy
          ;
        inherit (unit.unitConfig) DefaultDependencies;
      };
      expected = {
        wantedBy = [ "initrd.target" ];
        wants = [ "dev-disk-by\\x2dlabel-nixos.device" ];
        after = [
          "dev-disk-by\\x2dlabel-nixos.device"
          "local-fs-pre.target"
          "systemd-hibernate-resume.service"
        ];
        before = [ "sysroot.mount" ];
        requires = [ ];
        requiredBy = [ ];
        DefaultDependencies = false;
      };
    };
    "the script gets device, subvolume and number" = {
      expr = lib.filterAttrs (name: _: lib.hasPrefix "ROLLBACK" name) unit.environment;
      expected = {
        ROLLBACK_DEVICE = "/dev/disk/by-label/nixos";
        ROLLBACK_SUBVOLUME = "root";
        ROLLBACK_KEEP = "5";
      };
    };
    "stage 1 is systemd and has btrfs" =
      good.config.boot.initrd.systemd.enable
      && lib.any (p: lib.getName p == "btrfs-progs") good.config.boot.initrd.systemd.initrdBin;
    "a tmpfs root needs no rollback" =
      onTmpfs.config.nixfleet.impermanence.rootKind == "tmpfs"
      && !(onTmpfs.config.boot.initrd.systemd.services ? nixfleet-rollback)
      && !lib.any (d: d.dirPath == "/home") onTmpfs.config.environment.persistence."/persist".directories
      && onTmpfs.failedAssertions == [ ];
    "fires: nothing is persistent" = firesAmong "nixfleet.impermanence.persistRoot is /keep" (
      with' { persistRoot = "/keep"; } { }
    );
    "fires: the persistent root is mounted too late" = firesAmong "nixfleet.impermanence.persistRoot is /persist" (
      with' { } { fileSystems."/persist".neededForBoot = lib.mkForce false; }
    );
    "fires: scripted stage 1" = firesAmong "Set boot.initrd.systemd.enable = true" (
      with' { } { boot.initrd.systemd.enable = false; }
    );
    "fires: the root is not a subvolume" = firesAmong "a device below /dev and a subvolume" (
      with' { } { fileSystems."/".options = lib.mkForce [ "noatime" ]; }
    );
  };
in
(
  if harness.inputs.impermanence == null then
    lib.mapAttrs (_: _: withInput "impermanence" null) tests
  else
    tests
)
// {
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.impermanence ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "fires: impermanence is not imported" =
    firesAmong "Add impermanence.nixosModules.impermanence"
      (bareHost [
        scopes.nixosModules.impermanence
        disks
        { nixfleet.impermanence.enable = true; }
      ]);
}
