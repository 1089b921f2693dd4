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
    enable = lib.mkEnableOption "the NixFleet agent, which brings this host to the releases of its fleet";

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
      description = "The name under which the fleet knows this host.";
    };

    line = lib.mkOption {
      type = types.strMatching "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";
      default = "main";
      example = "staging";
      description = "The release train that this host follows; releases of another are refused.";
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
        description = "PEM certificates that sign the control plane's; null: the one that enrolment brought.";
      };
      pollSeconds = lib.mkOption {
        type = types.ints.between 1 86400;
        default = 60;
        description = "Seconds between check-ins when the control plane does not hold them open.";
      };
      longPollSeconds = lib.mkOption {
        type = types.ints.between 0 300;
        default = 55;
        description = "Seconds for which a check-in waits for news at the control plane; 0: never.";
      };
    };

    identity = {
      tokenFile = secretFile ''
        File with the enrolment token that `nixfleet machine token` printed. Needed until the host
        has a certificate; it may be gone afterwards.
      '';
      certFile = secretFile ''
        Client certificate of a CA of your own; null: the agent makes a key, gets a certificate
        with the token and renews it.
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
          It is public and becomes part of the system. `nixfleet trust init` makes one.
        '';
      };
      unsigned = lib.mkOption {
        type = types.bool;
        default = false;
        description = "Accept releases without signatures. Works with a control plane on loopback only.";
      };
    };

    confirm = {
      deadlineSeconds = lib.mkOption {
        type = types.ints.between 1 86400;
        default = 300;
        description = "Seconds after a switch in which the host must reach the network again, or goes back.";
      };
      beacons = lib.mkOption {
        type = types.listOf (types.strMatching "(tcp|https?)://.+");
        default = [ ];
        example = [
          "tcp://192.0.2.1:53"
          "https://cache.example.org"
        ];
        description = "What proves, beside the control plane and its caches, that the host reaches the network.";
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
        description = "With policy `window`: when, in cron's fields, for how long, and in which time zone.";
      };
    };

    metrics = {
      port = lib.mkOption {
        type = types.nullOr types.port;
        default = null;
        example = 9445;
        description = "Port on which Prometheus finds the agent; null: none.";
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
      description = "Fetch, verify and report, but never activate.";
    };

    stateDir = lib.mkOption {
      type = types.path;
      default = "/var/lib/nixfleet/agent";
      description = "Where the agent keeps its journal, identity and trust state. It must outlive reboots.";
    };

    checkConfig = lib.mkOption {
      type = types.bool;
      default = true;
      description = "Whether the agent itself reads its configuration when the system is built, and refuses mistakes.";
    };

    settings = lib.mkOption {
      inherit (pkgs.formats.toml { }) type;
      default = { };
      example.controlPlane.pollSeconds = 300;
      description = ''
        The agent's configuration file, `/etc/nixfleet/agent.toml`. The options beside this one
        set its values by default; what is written here wins.
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
