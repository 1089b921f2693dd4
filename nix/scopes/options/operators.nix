# SPDX-License-Identifier: MIT
# Options of the operators scope, the same on NixOS and nix-darwin.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;

  operator = {
    options = {
      isAdmin = mkOption {
        type = types.bool;
        default = false;
        description = "Whether this operator may become root: a member of `wheel` on NixOS, of `admin` on macOS, where false removes no one from it.";
      };

      passwordlessSudo = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Whether `sudo` lets this operator become root without a password: the SSH key is then all that
          protects root. An operator without a `hashedPasswordFile` cannot use `sudo` otherwise. Has no effect
          on macOS.
        '';
      };

      uid = mkOption {
        type = types.nullOr types.ints.positive;
        default = null;
        example = 1000;
        description = ''
          The operator's user id, for example to be the same on every host that mounts a network file system.
          Null: NixOS chooses one. Has no effect on macOS, which has created the account.
        '';
      };

      description = mkOption {
        type = types.str;
        default = "";
        example = "Alice Martin";
        description = "The operator's full name, shown by the login screen and in the user database.";
      };

      sshKeys = mkOption {
        type = types.listOf types.singleLineStr;
        default = [ ];
        example = [ "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI... alice@laptop" ];
        description = "SSH public keys with which this operator may log in.";
      };

      sshKeyFiles = mkOption {
        type = types.listOf types.path;
        default = [ ];
        example = lib.literalExpression "[ ./keys/alice.pub ]";
        description = "Files with SSH public keys with which this operator may log in. They are read when the host is evaluated.";
      };

      hashedPasswordFile = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "/run/agenix/alice-password";
        description = ''
          File with the hash of the operator's password, as `mkpasswd` prints it. It is read at each
          activation. Null: the operator has no password, and cannot use `sudo` if it asks for one. Has no
          effect on macOS.
        '';
      };

      extraGroups = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "networkmanager" ];
        description = "Additional groups of the operator. Has no effect on macOS.";
      };

      shell = mkOption {
        type = types.nullOr (
          types.enum [
            "bash"
            "fish"
            "zsh"
          ]
        );
        default = null;
        example = "zsh";
        description = "Login shell. The shell is also enabled for the whole system. Null keeps the system's default.";
      };

      homeManager = mkOption {
        type = types.nullOr types.deferredModule;
        default = null;
        example = lib.literalExpression "./home/alice.nix";
        description = "home-manager configuration of the operator. Needs home-manager's module in the host's imports.";
      };
    };
  };
in
{
  options.nixfleet.operators = {
    enable = lib.mkEnableOption "declared operator accounts: users, their groups, keys and passwords";

    users = mkOption {
      type = types.attrsOf (types.submodule operator);
      default = { };
      example = lib.literalExpression ''
        {
          alice = {
            isAdmin = true;
            sshKeys = [ "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI... alice@laptop" ];
          };
        }
      '';
      description = "Operators by login name. Each becomes a normal user of the host.";
    };

    primaryUser = mkOption {
      type = types.nullOr types.str;
      default = config.hostSpec.userName or null;
      defaultText = lib.literalExpression "config.hostSpec.userName or null";
      example = "alice";
      description = ''
        The operator whom other scopes use as the host's main user, for example as the owner of the home
        that home-manager configures. Must be one of {option}`nixfleet.operators.users`, unless that is
        empty or the account is declared elsewhere.
      '';
    };

    rootSshKeys = mkOption {
      type = types.listOf types.singleLineStr;
      default = [ ];
      example = [ "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI... deploy" ];
      description = ''
        SSH public keys with which root may log in. `nixos-rebuild --target-host` and `nixos-anywhere` use
        them. Has no effect on macOS, where root has no SSH access.
      '';
    };

    rootSshKeyFiles = mkOption {
      type = types.listOf types.path;
      default = [ ];
      example = lib.literalExpression "[ ./keys/deploy.pub ]";
      description = "Files with SSH public keys with which root may log in. Has no effect on macOS.";
    };
  };
}
