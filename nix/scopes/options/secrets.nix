# SPDX-License-Identifier: MIT
# Options of the secrets scope, the same on NixOS and nix-darwin.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.secrets;
in
{
  options.nixfleet.secrets = {
    enable = lib.mkEnableOption "a host key that exists before anything needs it, and its use by agenix and sops-nix";

    hostKeyPath = mkOption {
      type = types.str;
      default =
        if config.nixfleet.impermanence.enable or false then
          "${config.nixfleet.impermanence.persistRoot}/etc/ssh/ssh_host_ed25519_key"
        else
          "/etc/ssh/ssh_host_ed25519_key";
      defaultText = lib.literalMD "`/etc/ssh/ssh_host_ed25519_key`, below {option}`nixfleet.impermanence.persistRoot` when that scope is on";
      description = ''
        The host's ed25519 SSH key, which is also the identity that the host's secrets are encrypted to. It
        is generated at activation when it is missing, before secrets are decrypted. To have secrets at the
        first boot, put the key there when installing (`nixos-anywhere --extra-files`).
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
        Private keys that secrets are decrypted with, tried in order: `age.identityPaths` where agenix is
        imported, `sops.age.sshKeyPaths` where sops-nix is.
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
        The tool that the host's secrets need. Naming it makes a host without its module an error, instead of
        one without secrets. Null takes whichever module is there.
      '';
    };
  };
}
