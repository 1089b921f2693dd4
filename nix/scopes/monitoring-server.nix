# SPDX-License-Identifier: MIT
# Scope monitoring-server (NixOS): Prometheus for the fleet's machines and its control plane, with
# alert rules; optionally Alertmanager and Grafana.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.monitoring-server;
  inherit (cfg) alertmanager controlPlane;
  inherit (import ../lib/priorities.nix lib) chosen suggest;

  json = pkgs.formats.json { };
  alertmanagerPort = toString config.services.prometheus.alertmanager.port;
  nullOrStr =
    example: description:
    mkOption {
      type = types.nullOr types.str;
      default = null;
      inherit description example;
    };

  credentials = lib.filterAttrs (_: file: file != null) {
    control-plane-ca = controlPlane.caFile;
    control-plane-certificate = controlPlane.certificateFile;
    control-plane-key = controlPlane.keyFile;
  };
  credential = name: lib.mkIf (credentials ? ${name}) "/run/credentials/prometheus.service/${name}";
  plainJob = job_name: targets: {
    inherit job_name;
    static_configs = [ { inherit targets; } ];
  };
  tls = controlPlane.caFile != null || controlPlane.certificateFile != null;
in
{
  _class = "nixos";

  imports = [
    ./monitoring-server/extra.nix
    ./monitoring-server/grafana.nix
  ];

  options.nixfleet.monitoring-server = {
    enable = lib.mkEnableOption "Prometheus for the fleet, with alert rules for machines, backups, rollouts and the control plane";

    nodes = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "web-01.example.org:9100" ];
      description = "Node exporters whose metrics to fetch, as HOST:PORT.";
    };

    agents = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "web-01.example.org:9445" ];
      description = "NixFleet agents whose metrics to fetch, as HOST:PORT.";
    };

    controlPlane = {
      target = nullOrStr "127.0.0.1:9443" "Address of the control plane's metrics, as HOST:PORT. Null: fetch none.";
      caFile = nullOrStr "/etc/nixfleet/ca.crt" "File with the certificate authority of the control plane's metrics. If it is set, Prometheus uses TLS.";
      certificateFile = nullOrStr "/run/agenix/prometheus.crt" "File with the client certificate for the control plane.";
      keyFile = nullOrStr "/run/agenix/prometheus.key" "File with the private key of the client certificate.";
    };

    listenAddress = mkOption {
      type = types.str;
      default = "127.0.0.1";
      description = "Address on which Prometheus listens. It has no authentication.";
    };

    retention = mkOption {
      type = types.str;
      default = "30d";
      description = "How long Prometheus keeps metrics.";
    };

    alertmanager = {
      enable = lib.mkEnableOption "Alertmanager on this host, which sends alerts to receivers";
      settings = mkOption {
        inherit (json) type;
        default = { };
        example = lib.literalExpression ''
          {
            route.receiver = "team";
            receivers = [
              {
                name = "team";
                webhook_configs = [ { url_file = "/run/agenix/chat-hook"; } ];
              }
            ];
          }
        '';
        description = "Alertmanager's configuration. Give secrets as files, for example with `url_file` or `auth_password_file`.";
      };
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = (controlPlane.keyFile == null) == (controlPlane.certificateFile == null);
        message = "nixfleet.monitoring-server.controlPlane: keyFile and certificateFile go together. Set both, or neither.";
      }
      {
        assertion = alertmanager.enable -> alertmanager.settings.receivers or [ ] != [ ];
        message = "nixfleet.monitoring-server.alertmanager.settings has no receivers, so no alert would be sent. Add one, and name it in route.receiver.";
      }
    ];

    services.prometheus = {
      enable = suggest true;
      listenAddress = suggest cfg.listenAddress;
      retentionTime = suggest cfg.retention;
      # The credential files do not exist when the configuration is built.
      checkConfig = suggest (if tls then "syntax-only" else true);
      rules = [ (builtins.toJSON (import ./monitoring-server/alerts.nix)) ];
      scrapeConfigs =
        lib.optional (cfg.nodes != [ ]) (plainJob "node" cfg.nodes)
        ++ lib.optional (cfg.agents != [ ]) (plainJob "nixfleet-agent" cfg.agents)
        ++ lib.optional (controlPlane.target != null) (
          plainJob "nixfleet-control-plane" [ controlPlane.target ]
          // lib.optionalAttrs tls {
            scheme = "https";
            tls_config = {
              ca_file = credential "control-plane-ca";
              cert_file = credential "control-plane-certificate";
              key_file = credential "control-plane-key";
            };
          }
        );
      alertmanagers = lib.optional alertmanager.enable {
        static_configs = [ { targets = [ "127.0.0.1:${alertmanagerPort}" ]; } ];
      };
      alertmanager = lib.mkIf alertmanager.enable {
        enable = suggest true;
        listenAddress = suggest "127.0.0.1";
        configuration = chosen alertmanager.settings;
      };
    };
    systemd.services.prometheus.serviceConfig.LoadCredential = lib.mapAttrsToList (
      name: file: "${name}:${file}"
    ) credentials;
  };
}
