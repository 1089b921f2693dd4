# SPDX-License-Identifier: MIT
# Options of the agent, the same on NixOS and nix-darwin.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.nixfleet-agent;
  inherit (lib) types;

  secretFile =
    description:
    lib.mkOption {
      type = types.nullOr (import ../secret-path.nix { inherit lib; });
      default = null;
      example = "/run/secrets/nixfleet";
      inherit description;
    };
in
{
  imports = [ ./health-checks.nix ];

  options.services.nixfleet-agent = {
    enable = lib.mkEnableOption "the NixFleet agent, which applies the releases of the fleet to this host";

    package = lib.mkOption {
      type = types.package;
      default = pkgs.nixfleet-agent or (import ../../packages { inherit pkgs; }).nixfleet-agent;
      defaultText = lib.literalExpression "pkgs.nixfleet-agent";
      description = "The agent's package.";
    };

    machineId = lib.mkOption {
      type = types.strMatching "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";
      default = config.networking.hostName;
      defaultText = lib.literalExpression "config.networking.hostName";
      example = "web-01";
      description = "The host's machine id in the fleet.";
    };

    line = lib.mkOption {
      type = types.strMatching "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";
      default = "main";
      example = "staging";
      description = "The line of releases that this host follows; it refuses releases of other lines.";
    };

    tags = lib.mkOption {
      type = types.listOf (types.strMatching "[A-Za-z0-9_.:/-]+");
      default = [ ];
      example = [
        "web"
        "eu-west"
      ];
      description = "Tags by which rollouts select this host.";
    };

    controlPlane = {
      url = lib.mkOption {
        type = types.nullOr (types.strMatching "https?://.+");
        default = null;
        example = "https://fleet.example.org:8444";
        description = "The control plane's listener for agents.";
      };
      caFile = lib.mkOption {
        type = types.nullOr types.path;
        default = null;
        example = lib.literalExpression "./fleet-ca.pem";
        description = "PEM certificates of the CA that signs the control plane's certificate; null: the CA that the host got at enrolment.";
      };
      pollSeconds = lib.mkOption {
        type = types.ints.between 1 86400;
        default = 60;
        description = "Seconds between check-ins when the control plane does not hold them open.";
      };
      longPollSeconds = lib.mkOption {
        type = types.ints.between 0 300;
        default = 55;
        description = "Seconds for which the control plane may hold a check-in until there are other orders; 0: it answers at once.";
      };
    };

    identity = {
      tokenFile = secretFile ''
        File with the whole line that `nixfleet machine token` printed: the secret and the host's first
        floor. It is needed until the host has a certificate; you may delete it afterwards.
      '';
      certFile = secretFile ''
        Client certificate of your own CA; null: the agent makes a key, exchanges the token for a
        certificate, and renews it.
      '';
      keyFile = secretFile "Key of `identity.certFile`.";
    };

    trust = {
      rootFile = lib.mkOption {
        type = types.nullOr types.path;
        default = null;
        example = lib.literalExpression "./trust/root.json";
        description = ''
          The fleet's root document: the release keys, their threshold, and who may change them.
          It is public and becomes part of the system. `nixfleet trust init` creates it.
        '';
      };
      unsigned = lib.mkOption {
        type = types.bool;
        default = false;
        description = "Whether to accept releases without signatures. Works only with a control plane on loopback.";
      };
    };

    confirm = {
      deadlineSeconds = lib.mkOption {
        type = types.ints.between 1 86400;
        default = 300;
        description = "Seconds after a switch within which the host must reach the network again. If it does not, it rolls back.";
      };
      beacons = lib.mkOption {
        type = types.listOf (types.strMatching "(tcp|https?)://.+");
        default = [ ];
        example = [
          "tcp://192.0.2.1:53"
          "https://cache.example.org"
        ];
        description = "Addresses that prove that the host reaches the network, in addition to the control plane and the caches.";
      };
    };

    reboot = {
      policy = lib.mkOption {
        type = types.enum [
          "never"
          "if-needed"
          "window"
        ];
        default = "never";
        description = "Whether the agent may reboot the host when a new system needs it.";
      };
      window = lib.mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "0 3 * * * 2h Europe/Paris";
        description = "With policy `window`: when (the five fields of cron), for how long, and in which time zone.";
      };
    };

    metrics = {
      port = lib.mkOption {
        type = types.nullOr types.port;
        default = null;
        example = 9445;
        description = "Port on which the agent serves metrics for Prometheus; null: none.";
      };
      address = lib.mkOption {
        type = types.str;
        default = "127.0.0.1";
        example = "0.0.0.0";
        description = "Address on which the metrics are served.";
      };
    };

    dryRun = lib.mkOption {
      type = types.bool;
      default = false;
      description = "Whether to fetch, verify and report, but never activate.";
    };

    stateDir = lib.mkOption {
      type = types.path;
      default = "/var/lib/nixfleet/agent";
      description = "Directory in which the agent keeps its journal, identity and trust state. It must survive reboots. A second copy of the floor is kept beside the Nix store.";
    };

    checkConfig = lib.mkOption {
      type = types.bool;
      default = true;
      description = "Whether the agent checks its configuration when the system is built. A mistake then fails the build.";
    };

    settings = lib.mkOption {
      inherit (pkgs.formats.toml { }) type;
      default = { };
      example.controlPlane.pollSeconds = 300;
      description = ''
        The agent's configuration file, `/etc/nixfleet/agent.toml`. The other options set its values
        by default; a value that is set here overrides them.
      '';
    };

    configFile = lib.mkOption {
      type = types.path;
      readOnly = true;
      internal = true;
      description = "The rendered and checked configuration.";
    };
  };

  config.services.nixfleet-agent.configFile = lib.mkIf cfg.enable (
    import ../config-file.nix {
      inherit lib pkgs;
      inherit (cfg) package settings;
      name = "agent.toml";
      check = cfg.checkConfig;
    }
  );
}
