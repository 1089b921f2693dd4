# SPDX-License-Identifier: MIT
# Options of the remote-builders scope and what follows from them, the same on NixOS and nix-darwin.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.remote-builders;

  builder =
    { name, ... }:
    {
      options = {
        hostName = mkOption {
          type = types.str;
          default = name;
          description = "Name or address by which SSH reaches the builder.";
        };
        hostKey = mkOption {
          type = types.nullOr types.singleLineStr;
          default = null;
          example = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI...";
          description = "The builder's public host key. Null where it is among the known hosts already.";
        };
        systems = mkOption {
          type = types.nonEmptyListOf types.str;
          example = [ "aarch64-linux" ];
          description = "Systems that the builder builds for.";
        };
        sshUser = mkOption {
          type = types.str;
          default = "nix-builder";
          description = "User to log in as. The builder must trust it (`nix.settings.trusted-users`).";
        };
        sshKey = mkOption {
          type = types.str;
          example = "/run/agenix/builder-key";
          description = "File that holds the private key to log in with, readable by root and without a passphrase.";
        };
        protocol = mkOption {
          type = types.enum [
            "ssh"
            "ssh-ng"
          ];
          default = "ssh-ng";
          description = "Protocol to speak with the builder; `ssh` for Nix older than 2.4.";
        };
        maxJobs = mkOption {
          type = types.ints.positive;
          default = 1;
          description = "Builds that the builder runs at a time.";
        };
        speedFactor = mkOption {
          type = types.ints.positive;
          default = 1;
          description = "How fast the builder is beside the others; the fastest free one is taken.";
        };
        supportedFeatures = mkOption {
          type = types.listOf types.str;
          default = [ ];
          example = [
            "big-parallel"
            "kvm"
          ];
          description = "Features that derivations may ask for.";
        };
        mandatoryFeatures = mkOption {
          type = types.listOf types.str;
          default = [ ];
          description = "Features that derivations must ask for to be built there.";
        };
      };
    };

  known = lib.concatMap (host: host.hostNames) (lib.attrValues config.programs.ssh.knownHosts);
  checks = name: builder: [
    {
      assertion = !lib.hasPrefix "${builtins.storeDir}/" builder.sshKey;
      message = "nixfleet.remote-builders.builders.${name}.sshKey is in the Nix store, where everyone can read it. Give the path of a file on the machine as a string.";
    }
    {
      assertion = lib.elem builder.hostName known;
      message = "nixfleet.remote-builders.builders.${name}.hostKey is not set and ${builder.hostName} is no known host, so every build would fail at an SSH question. Set it to the builder's /etc/ssh/ssh_host_ed25519_key.pub.";
    }
  ];
in
{
  options.nixfleet.remote-builders = {
    enable = lib.mkEnableOption "building on other machines";

    builders = mkOption {
      type = types.attrsOf (types.submodule builder);
      default = { };
      description = "Builders by name.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = lib.concatLists (lib.mapAttrsToList checks cfg.builders);

    nix.distributedBuilds = lib.mkDefault true;
    # Otherwise everything a build needs is sent from here.
    nix.settings.builders-use-substitutes = lib.mkDefault true;
    nix.buildMachines = lib.mapAttrsToList (_: builder: {
      inherit (builder)
        hostName
        mandatoryFeatures
        maxJobs
        protocol
        speedFactor
        sshKey
        sshUser
        supportedFeatures
        systems
        ;
    }) cfg.builders;

    programs.ssh.knownHosts = lib.mapAttrs' (
      name: builder:
      lib.nameValuePair "nixfleet-builder-${name}" {
        hostNames = [ builder.hostName ];
        publicKey = builder.hostKey;
      }
    ) (lib.filterAttrs (_: builder: builder.hostKey != null) cfg.builders);
  };
}
