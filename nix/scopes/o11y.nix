# SPDX-License-Identifier: MIT
# Scope o11y (NixOS): send metrics and the journal to a server, for hosts that no server can scrape.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.o11y;
  inherit (cfg) metrics journal;
  inherit (import ../lib/priorities.nix lib) chosen suggest;

  exporter = config.services.prometheus.exporters.node;
  # If the host has the agent's module.
  agent = config.services.nixfleet-agent or { metrics.port = null; };
  job = job_name: address: port: {
    inherit job_name;
    static_configs = [
      { targets = [ "${if address == "0.0.0.0" then "127.0.0.1" else address}:${toString port}" ]; }
    ];
  };
  nullOrStr =
    example: description:
    mkOption {
      type = types.nullOr types.str;
      default = null;
      inherit description example;
    };
  isLoopback = url: builtins.match "http://(localhost|127[.][0-9.]+|\\[::1])([:/].*)?" url != null;

  # Secrets are credentials: the unit runs as a user of its own and cannot read the files.
  journalCredentials = lib.filterAttrs (_: file: file != null) {
    key = journal.keyFile;
    certificate = journal.certificateFile;
    trust = journal.trustFile;
  };
  credential =
    name:
    lib.mkIf (journalCredentials ? ${name}) (
      chosen "/run/credentials/systemd-journal-upload.service/${name}"
    );
in
{
  _class = "nixos";

  options.nixfleet.o11y = {
    enable = lib.mkEnableOption "sending metrics and the journal to a server; each is sent only if its URL is set";

    metrics = {
      url = nullOrStr "https://metrics.example.org/api/v1/write" "URL to which vmagent sends metrics by Prometheus remote write. Null: send none.";
      username = nullOrStr "web-01" "User name of HTTP basic authentication.";
      passwordFile = nullOrStr "/run/agenix/remote-write" "File with the password of HTTP basic authentication.";
      interval = mkOption {
        type = types.ints.positive;
        default = 60;
        description = "Seconds between two scrapes.";
      };
      labels = mkOption {
        type = types.attrsOf types.str;
        default = {
          host = config.networking.hostName;
        };
        defaultText = lib.literalExpression "{ host = config.networking.hostName; }";
        description = "Labels that are added to each metric of the host.";
      };
      scrapeConfigs = mkOption {
        type = types.listOf (types.attrsOf types.anything);
        default =
          lib.optional exporter.enable (job "node" exporter.listenAddress exporter.port)
          ++ lib.optional (agent.metrics.port != null) (
            job "nixfleet-agent" agent.metrics.address agent.metrics.port
          );
        defaultText = lib.literalMD "the node exporter and the NixFleet agent of this host, if they serve metrics";
        description = "What to scrape, as `scrape_configs` of Prometheus.";
      };
    };

    journal = {
      url = nullOrStr "https://logs.example.org:19532" "URL of the systemd-journal-remote to which the journal is uploaded. Null: upload none.";
      keyFile = nullOrStr "/run/agenix/journal.key" "File with the private key of the client certificate.";
      certificateFile = nullOrStr "/etc/ssl/journal.crt" "File with the client certificate.";
      trustFile = nullOrStr "/etc/ssl/logs-ca.crt" "File with the certificate authority of the server. Null: the system's certificate authorities.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = (metrics.username == null) == (metrics.passwordFile == null);
        message = "nixfleet.o11y.metrics: username and passwordFile go together. Set both, or neither.";
      }
      {
        assertion =
          metrics.url == null
          || metrics.passwordFile == null
          || lib.hasPrefix "https://" metrics.url
          || isLoopback metrics.url;
        message = "nixfleet.o11y.metrics.url is ${toString metrics.url}, which would send the password unencrypted. Use https, or remove passwordFile.";
      }
      {
        assertion = (journal.keyFile == null) == (journal.certificateFile == null);
        message = "nixfleet.o11y.journal: keyFile and certificateFile go together. Set both, or neither.";
      }
    ];

    services.vmagent = lib.mkIf (metrics.url != null) {
      enable = suggest true;
      remoteWrite = {
        url = chosen metrics.url;
        basicAuthUsername = chosen metrics.username;
        basicAuthPasswordFile = chosen metrics.passwordFile;
      };
      prometheusConfig = {
        global = {
          scrape_interval = suggest "${toString metrics.interval}s";
          external_labels = lib.mapAttrs (_: suggest) metrics.labels;
        };
        scrape_configs = metrics.scrapeConfigs;
      };
      # Its own web pages are only for debugging on the host.
      extraArgs = [ "-httpListenAddr=127.0.0.1:8429" ];
    };

    services.journald.upload = lib.mkIf (journal.url != null) {
      enable = suggest true;
      settings.Upload = {
        URL = chosen journal.url;
        ServerKeyFile = credential "key";
        ServerCertificateFile = credential "certificate";
        TrustedCertificateFile = credential "trust";
      };
    };
    systemd.services.systemd-journal-upload = lib.mkIf (journal.url != null) {
      serviceConfig.LoadCredential = lib.mapAttrsToList (
        name: file: "${name}:${file}"
      ) journalCredentials;
    };
  };
}
