# SPDX-License-Identifier: MIT
# Scope impermanence (NixOS): a root file system that is empty at each boot, and what is kept.
{
  config,
  lib,
  options,
  utils,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.impermanence;
  inherit (import ../lib/priorities.nix lib) suggest;
  root = config.fileSystems."/" or { };
  # The file systems that can hold persistRoot, without the root that is wiped.
  holders = lib.filter (
    fs: fs.mountPoint != "/" && lib.hasPrefix "${lib.removeSuffix "/" fs.mountPoint}/" "${cfg.persistRoot}/"
  ) (lib.attrValues config.fileSystems);

  # What the host itself keeps, wherever: impermanence refuses a path that is listed twice. These are the
  # definitions as they are written, since the values contain those of this file.
  written =
    value:
    if value._type or null == "if" then
      lib.optionals value.condition (written value.content)
    else if value._type or null == "merge" then
      lib.concatMap written value.contents
    else if value ? _type then
      written value.content
    else
      [ value ];
  ownStorages = lib.concatMap (definition: lib.concatMap written (lib.attrValues definition.value)) (
    lib.filter (definition: toString definition.file != toString ./impermanence.nix) (
      options.environment.persistence.definitionsWithLocations or [ ]
    )
  );
  listed =
    kind: key:
    map (entry: entry.${key} or entry) (
      lib.concatLists (lib.concatMap (storage: written (storage.${kind} or [ ])) ownStorages)
    );
  without = key: paths: lib.filter (entry: !lib.elem (entry.${key} or entry) paths);
  unlessKept = {
    directories = without "directory" (listed "directories" "directory");
    files = without "file" (listed "files" "file");
  };
in
{
  _class = "nixos";

  imports = [ ./impermanence/rollback.nix ];

  options.nixfleet.impermanence = {
    enable = lib.mkEnableOption ''
      a root file system that is empty at each boot. What is listed here, and what NixOS needs to keep the
      machine's identity, is kept on {option}`nixfleet.impermanence.persistRoot`. Needs impermanence's module'';

    persistRoot = mkOption {
      type = types.path;
      default = "/persist";
      description = "Directory for what is kept, also by other scopes. It must be on a file system of its own that has `neededForBoot`.";
    };

    directories = mkOption {
      type = types.listOf (types.either types.str (types.attrsOf types.anything));
      default = [ ];
      example = [ "/var/lib/postgresql" ];
      description = "Directories to keep, in addition to those that every NixOS needs (such as `/var/log` and `/var/lib/nixos`). The format is that of `environment.persistence.<name>.directories`.";
    };

    files = mkOption {
      type = types.listOf (types.either types.str (types.attrsOf types.anything));
      default = [ ];
      example = [ "/etc/adjtime" ];
      description = "Files to keep, in addition to `/etc/machine-id`.";
    };

    home = mkOption {
      type = types.bool;
      default = true;
      description = "Whether to keep the whole of `/home`. Set it to false if `/home` is a file system of its own.";
    };

    rootKind = mkOption {
      type = types.enum [
        "btrfs"
        "tmpfs"
        "other"
      ];
      default =
        if lib.elem (root.fsType or "") [ "btrfs" "tmpfs" ] then root.fsType else "other";
      defaultText = lib.literalMD "by the type of `fileSystems.\"/\"`";
      description = ''
        How the root becomes empty. `btrfs`: its subvolume is replaced in stage 1. `tmpfs`: it is always
        empty. `other`: something else wipes it.
      '';
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = [
          {
            assertion = options.environment ? persistence;
            message = "nixfleet.impermanence.enable needs impermanence's module. Add impermanence.nixosModules.impermanence to the host's modules.";
          }
          {
            assertion = lib.any utils.fsNeededForBoot holders;
            message = "nixfleet.impermanence.persistRoot is ${cfg.persistRoot}, which is on no file system that is mounted at boot. Declare fileSystems.\"${cfg.persistRoot}\" with neededForBoot = true, or use one of the impermanence disk templates.";
          }
        ];
      }
      (lib.optionalAttrs (options.environment ? persistence) {
        environment.persistence.${cfg.persistRoot} = {
          hideMounts = suggest true;
          directories = unlessKept.directories (
            [
              "/var/lib/nixfleet"
              "/var/lib/nixos"
              "/var/lib/systemd"
              "/var/log"
              # State of services with DynamicUser; systemd requires the mode.
              {
                directory = "/var/lib/private";
                mode = "0700";
              }
            ]
            ++ lib.optional cfg.home "/home"
            ++ lib.optional config.hardware.bluetooth.enable "/var/lib/bluetooth"
            ++ lib.optional config.networking.networkmanager.enable "/etc/NetworkManager/system-connections"
            ++ cfg.directories
          );
          files = unlessKept.files ([ "/etc/machine-id" ] ++ cfg.files);
        };
      })
    ]
  );
}
