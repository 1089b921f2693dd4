# SPDX-License-Identifier: MIT
# Disk template luks-btrfs-impermanence: everything except /boot encrypted.
{
  lib,
  harness,
  root,
}:
let
  disk = import ./fixtures/disks.nix {
    inherit lib harness root;
    name = "luks-btrfs-impermanence";
  };
  inherit (disk) bootOf good subvolumeOf;
  inherit (good.config) boot fileSystems swapDevices;
in
disk.suite {
  "boots by UEFI" = {
    expr = bootOf good // {
      boot = fileSystems."/boot".fsType;
      private = lib.elem "umask=0077" fileSystems."/boot".options;
    };
    expected = {
      loader = "systemd-boot";
      grub = { };
      efiVariables = true;
      partitions = {
        boot = "EF00";
        root = "8300";
      };
      boot = "vfat";
      private = true;
    };
  };
  "the root is wiped, what is kept is mounted before activation" =
    good.config.nixfleet.impermanence.enable
    && subvolumeOf good "/persist" == "persist"
    && fileSystems."/persist".neededForBoot
    && fileSystems ? "/home" && fileSystems."/home".device == "/persist/home";
  "the subvolume that is replaced is the one that is mounted" = {
    expr = {
      inherit (boot.initrd.systemd.services.nixfleet-rollback.environment) ROLLBACK_DEVICE;
      ROLLBACK_SUBVOLUME = lib.removePrefix "/" boot.initrd.systemd.services.nixfleet-rollback.environment.ROLLBACK_SUBVOLUME;
    };
    expected = {
      ROLLBACK_DEVICE = "/dev/mapper/cryptroot";
      ROLLBACK_SUBVOLUME = "root";
    };
  };
  "what is kept can be elsewhere" =
    (disk.host { persistRoot = "/keep"; } [ ]).config.nixfleet.impermanence.persistRoot == "/keep";
  "the host key is kept" = good.config.nixfleet.secrets.hostKeyPath == "/persist/etc/ssh/ssh_host_ed25519_key";
  "swap is inside the encrypted part" = (lib.head swapDevices).device == "/swap/swapfile";
  "the root is opened in stage 1, by passphrase" =
    let
      luks = boot.initrd.luks.devices.cryptroot;
    in
    luks.device == "/dev/disk/by-partlabel/disk-main-root" && luks.allowDiscards && luks.keyFile == null && luks.crypttabExtraOpts == [ ];
  "a key file opens it" =
    (disk.host { keyFile = "/dev/disk/by-id/usb-KEY"; } [ ]).config.boot.initrd.luks.devices.cryptroot.keyFile == "/dev/disk/by-id/usb-KEY";
  "a TPM opens it" =
    let
      tpm = disk.host { tpm2 = true; } [ ];
    in
    tpm.config.boot.initrd.luks.devices.cryptroot.crypttabExtraOpts == [ "tpm2-device=auto" ]
    && tpm.config.boot.initrd.systemd.enable
    && tpm.failedAssertions == [ ];
  "formatting can be given the passphrase" =
    (disk.host { passwordFile = "/tmp/disk.key"; } [ ]).config.disko.devices.disk.main.content.partitions.root.content.passwordFile == "/tmp/disk.key";
  "fires: a key in the store" = {
    expr = lib.any (lib.hasInfix "keyFile in the Nix store") (disk.host { keyFile = "${builtins.storeDir}/abc-key"; } [ ]).failedAssertions;
    expected = true;
  };
}
