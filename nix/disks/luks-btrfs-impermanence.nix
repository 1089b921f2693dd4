# SPDX-License-Identifier: MIT
# Disk template luks-btrfs-impermanence: UEFI, everything except /boot encrypted, a root that is empty at
# each boot. By default, formatting and each boot ask for the passphrase.
{
  disk,
  espSize ? "1G",
  # Size of a swap file inside the encrypted part, or null for none.
  swapSize ? null,
  persistRoot ? "/persist",
  # Name of the opened device below /dev/mapper.
  luksName ? "cryptroot",
  # File with the passphrase on the machine that formats (nixos-anywhere --disk-encryption-keys); not used at boot.
  passwordFile ? null,
  # File or device with the key, when formatting and at each boot, for example a USB stick.
  keyFile ? null,
  # Open the disk with the machine's TPM; enrol it once with `systemd-cryptenroll --tpm2-device=auto DEVICE`.
  # The passphrase still works.
  tpm2 ? false,
  # Tell the disk which blocks are free. The disk is faster and lasts longer, but shows how full it is.
  allowDiscards ? true,
  enable ? true,
  ...
}@args:
let
  name = "luks-btrfs-impermanence";
in
{ lib, ... }:
{
  _class = "nixos";
  _file = "the disk template ${name}";

  imports = [
    (import ./layout (
      args
      // {
        inherit name persistRoot;
        # A swap partition would not be encrypted.
        swapSize = null;
        root = {
          type = "luks";
          name = luksName;
          settings = {
            inherit allowDiscards;
          }
          // lib.optionalAttrs (keyFile != null) { inherit keyFile; }
          // lib.optionalAttrs tpm2 { crypttabExtraOpts = [ "tpm2-device=auto" ]; };
          content = import ./layout/btrfs.nix {
            subvolumes = {
              root = "/";
              nix = "/nix";
              persist = persistRoot;
            };
            swapFileSize = swapSize;
          };
        }
        // lib.optionalAttrs (passwordFile != null) { inherit passwordFile; };
      }
    ))
  ];

  # Only systemd's stage 1 can use a TPM.
  config.boot.initrd.systemd.enable = lib.mkIf (enable && tpm2) (lib.mkDefault true);

  config.assertions = lib.mkIf enable [
    {
      assertion = keyFile == null || !(lib.hasPrefix "${builtins.storeDir}/" (toString keyFile));
      message = "The disk template ${name} was given a keyFile in the Nix store, which everyone can read. Give the path of a file or device outside the store, as a string.";
    }
  ];
}
