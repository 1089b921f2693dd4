# SPDX-License-Identifier: MIT
# Options of the remote-builders scope and their effects, the same on NixOS and nix-darwin.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.remote-builders;
  inherit (import ../../lib/priorities.nix lib) suggest;
  # Where another installer owns Nix, as on many Macs, nothing writes these settings.
  isManaged = config.nix.enable or true;

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
          description = "The builder's public host key. Null if it is already among the known hosts.";
        };
        systems = mkOption {
          type = types.nonEmptyListOf types.str;
          example = [ "aarch64-linux" ];
          description = "Systems for which the builder builds.";
        };
        sshUser = mkOption {
          type = types.str;
          default = "nix-builder";
          description = "User with which to log in. The builder must trust it (`nix.settings.trusted-users`).";
        };
        sshKey = mkOption {
          type = types.str;
          example = "/run/agenix/builder-key";
          description = "File with the private key for the login, readable by root and without a passphrase.";
        };
        protocol = mkOption {
          type = types.enum [
            "ssh"
            "ssh-ng"
          ];
          default = "ssh-ng";
          description = "Protocol to use with the builder; `ssh` for Nix older than 2.4.";
        };
        maxJobs = mkOption {
          type = types.ints.positive;
          default = 1;
          description = "How many builds the builder runs at a time.";
        };
        speedFactor = mkOption {
          type = types.ints.positive;
          default = 1;
          description = "How fast the builder is compared with the others; Nix uses the fastest free one.";
        };
        supportedFeatures = mkOption {
          type = types.listOf types.str;
          default = [ ];
          example = [
            "big-parallel"
            "kvm"
          ];
          description = "Features that derivations may require.";
        };
        mandatoryFeatures = mkOption {
          type = types.listOf types.str;
          default = [ ];
          description = "Features that a derivation must require to be built there.";
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
      message = "nixfleet.remote-builders.builders.${name}.hostKey is not set and ${builder.hostName} is not a known host, so SSH would ask for confirmation and every build would fail. Set it to the builder's /etc/ssh/ssh_host_ed25519_key.pub.";
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

    warnings = lib.optional (!isManaged && cfg.builders != { }) ''
      nixfleet.remote-builders has no effect, because nix.enable is false: another program writes Nix's settings. Give it the builders, or remove nixfleet.remote-builders.builders.
    '';

    nix = lib.mkIf isManaged {
      distributedBuilds = suggest true;
      # Otherwise this host sends everything that a build needs.
      settings.builders-use-substitutes = suggest true;
      buildMachines = lib.mapAttrsToList (_: builder: {
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
    };

    programs.ssh.knownHosts = lib.mapAttrs' (
      name: builder:
      lib.nameValuePair "nixfleet-builder-${name}" {
        hostNames = [ builder.hostName ];
        publicKey = builder.hostKey;
      }
    ) (lib.filterAttrs (_: builder: builder.hostKey != null) cfg.builders);
  };
}
