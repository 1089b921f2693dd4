# SPDX-License-Identifier: MIT
# Options of the secrets scope, the same on NixOS and nix-darwin.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.secrets;
in
{
  options.nixfleet.secrets = {
    enable = lib.mkEnableOption "a host key that is created before agenix and sops-nix need it";

    hostKeyPath = mkOption {
      type = types.str;
      description = ''
        The host's SSH key. The host's secrets are encrypted to it. If it is missing, it is generated before
        secrets are decrypted. To have secrets at the first boot, install the key with the system
        (`nixos-anywhere --extra-files`).
      '';
    };

    identityPaths = mkOption {
      type = types.listOf types.str;
      default = [ cfg.hostKeyPath ];
      defaultText = lib.literalExpression "[ config.nixfleet.secrets.hostKeyPath ]";
      example = [
        "/etc/ssh/ssh_host_ed25519_key"
        "/home/alice/.ssh/id_ed25519"
      ];
      description = ''
        Private keys for the decryption of secrets, in the order in which they are tried. If you set them,
        they become `age.identityPaths` if agenix is imported, and `sops.age.sshKeyPaths` if sops-nix is.
        Otherwise these two take the keys of sshd, if it is on.
      '';
    };

    backend = mkOption {
      type = types.nullOr (
        types.enum [
          "agenix"
          "sops"
        ]
      );
      default = null;
      example = "agenix";
      description = ''
        The tool that the host's secrets need. If it is set, a host without the tool's module is an error,
        not a host without secrets. Null: whichever module is imported.
      '';
    };
  };
}
