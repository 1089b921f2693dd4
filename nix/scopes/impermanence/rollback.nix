# SPDX-License-Identifier: MIT
# Part of scope impermanence: systemd's stage 1 replaces a btrfs root with an empty subvolume.
{
  config,
  lib,
  utils,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.impermanence;
  inherit (import ../../lib/priorities.nix lib) suggest suggestSettings;
  root = config.fileSystems."/" or { };
  deviceUnit = "${utils.escapeSystemdPath cfg.rollback.device}.device";
  subvolumes = map (lib.removePrefix "subvol=") (
    lib.filter (lib.hasPrefix "subvol=") (root.options or [ ])
  );
in
{
  _class = "nixos";

  options.nixfleet.impermanence.rollback = {
    device = mkOption {
      type = types.str;
      default = toString (root.device or "");
      defaultText = lib.literalExpression "config.fileSystems.\"/\".device";
      example = "/dev/disk/by-label/nixos";
      description = "Block device of the btrfs file system with the root. If it is missing at boot, nothing is replaced.";
    };

    subvolume = mkOption {
      type = types.nullOr types.str;
      default = if subvolumes == [ ] then null else lib.head subvolumes;
      defaultText = lib.literalMD "the `subvol=` among the mount options of `fileSystems.\"/\"`";
      example = "root";
      description = "The subvolume to replace, as a path from the top of the file system.";
    };

    keep = mkOption {
      type = types.ints.unsigned;
      default = 3;
      description = "How many old roots to keep in `old-roots` at the top of the file system; reach them with `mount -o subvolid=5`.";
    };
  };

  config = lib.mkIf (cfg.enable && cfg.rootKind == "btrfs") {
    assertions = [
      {
        assertion = config.boot.initrd.systemd.enable;
        message = "nixfleet.impermanence replaces a btrfs root in systemd's stage 1. Set boot.initrd.systemd.enable = true, or nixfleet.impermanence.rootKind = \"other\" to wipe the root otherwise.";
      }
      {
        assertion = cfg.rollback.subvolume != null && lib.hasPrefix "/dev/" cfg.rollback.device;
        message = "nixfleet.impermanence: the btrfs root must be mounted from a device below /dev and a subvolume. Give fileSystems.\"/\".options a subvol=NAME, or set nixfleet.impermanence.rollback.device and .subvolume.";
      }
    ];

    boot.initrd.systemd.enable = suggest true;
    boot.initrd.systemd.services.nixfleet-rollback = {
      description = suggest "Empty the root file system";
      wantedBy = [ "initrd.target" ];
      # Wanted, not required: a missing device must not prevent the boot. A resume from hibernation
      # continues with the old root and must come first.
      wants = [ deviceUnit ];
      after = [
        deviceUnit
        "local-fs-pre.target"
        "systemd-hibernate-resume.service"
      ];
      before = [ "sysroot.mount" ];
      unitConfig.DefaultDependencies = suggest false;
      serviceConfig.Type = suggest "oneshot";
      environment = suggestSettings {
        ROLLBACK_DEVICE = cfg.rollback.device;
        ROLLBACK_SUBVOLUME = cfg.rollback.subvolume;
        ROLLBACK_KEEP = toString cfg.rollback.keep;
      };
      script = builtins.readFile ./rollback.sh;
    };
  };
}
