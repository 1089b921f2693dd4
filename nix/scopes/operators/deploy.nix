# SPDX-License-Identifier: MIT
# Part of scope operators: a user for deployments, on hosts whose root does not accept SSH.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.operators.deploy;
  inherit (import ../../lib/priorities.nix lib) chosen suggest;
in
{
  _class = "nixos";

  options.nixfleet.operators.deploy = {
    name = mkOption {
      type = types.str;
      default = "deploy";
      description = "Login name of the user for deployments.";
    };

    sshKeys = mkOption {
      type = types.listOf types.singleLineStr;
      default = [ ];
      example = [ "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI... ci" ];
      description = ''
        SSH public keys of a user for `nixos-rebuild --target-host deploy@HOST --sudo` (before NixOS 25.11:
        `--use-remote-sudo`), where root does not accept SSH. The user exists if there are keys. Whoever holds
        one can become root: `sudo` asks for no password, and Nix accepts what the user copies to the host
        without a signature.
      '';
    };
  };

  config = lib.mkIf (config.nixfleet.operators.enable && cfg.sshKeys != [ ]) {
    users.users.${cfg.name} = {
      isSystemUser = true;
      group = chosen cfg.name;
      description = suggest "Deployments";
      # The option's own default already has mkDefault's priority.
      shell = chosen pkgs.bashInteractive;
      openssh.authorizedKeys.keys = cfg.sshKeys;
    };
    users.groups.${cfg.name} = { };
    security = import ./sudo.nix [ cfg.name ];
    nix.settings.trusted-users = [ cfg.name ];
  };
}
