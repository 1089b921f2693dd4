# SPDX-License-Identifier: MIT
# Scope o11y: what is sent where, with which credentials.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) fires host;
  scopes = import (root + "/nix/scopes");

  with' =
    settings: module:
    host [
      scopes.nixosModules.o11y
      {
        nixfleet.o11y = {
          enable = true;
        } // settings;
      }
      module
    ];
  good = with' {
    metrics = {
      url = "https://metrics.example.org/write";
      username = "web-01";
      passwordFile = "/run/secrets/metrics";
    };
    journal = {
      url = "https://logs.example.org:19532";
      keyFile = "/run/secrets/journal.key";
      certificateFile = "/etc/ssl/journal.crt";
    };
  } { services.prometheus.exporters.node.enable = true; };
  inherit (good.config.services) vmagent journald;
  silent = with' { } { };
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.o11y ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "nothing runs before a URL is set" =
    !silent.config.services.vmagent.enable && !silent.config.services.journald.upload.enable;
  "metrics of the host are scraped and labelled" = {
    expr = {
      inherit (vmagent.prometheusConfig) global scrape_configs;
    };
    expected = {
      global = {
        scrape_interval = "60s";
        external_labels.host = "web-01";
      };
      scrape_configs = [
        {
          job_name = "node";
          static_configs = [ { targets = [ "127.0.0.1:9100" ]; } ];
        }
      ];
    };
  };
  "the agent of the host is scraped if it serves metrics" = {
    expr =
      (with' { } {
        options.services.nixfleet-agent.metrics = {
          port = lib.mkOption { default = 9445; };
          address = lib.mkOption { default = "0.0.0.0"; };
        };
      }).config.nixfleet.o11y.metrics.scrapeConfigs;
    expected = [
      {
        job_name = "nixfleet-agent";
        static_configs = [ { targets = [ "127.0.0.1:9445" ]; } ];
      }
    ];
  };
  "metrics go to the URL, the password by credential" =
    let
      unit = good.config.systemd.units."vmagent.service".text;
    in
    lib.hasInfix "-remoteWrite.url=https://metrics.example.org/write" unit
    && lib.hasInfix "LoadCredential=remote_write_basic_auth_password:/run/secrets/metrics" unit
    && lib.hasInfix "-httpListenAddr=127.0.0.1:8429" unit;
  "the journal goes to the URL with a key by credential" =
    let
      service = good.config.systemd.services.systemd-journal-upload.serviceConfig;
    in
    journald.upload.settings.Upload.URL == "https://logs.example.org:19532"
    && journald.upload.settings.Upload.ServerKeyFile == "/run/credentials/systemd-journal-upload.service/key"
    && journald.upload.settings.Upload.TrustedCertificateFile == null
    && service.LoadCredential == [
      "certificate:/etc/ssl/journal.crt"
      "key:/run/secrets/journal.key"
    ];
  "fires: a user name without password" = fires "nixfleet.o11y.metrics: username and passwordFile go together" (
    with' {
      metrics.url = "https://m";
      metrics.username = "x";
    } { }
  );
  "fires: an unencrypted password" = fires "which would send the password unencrypted" (
    with' {
      metrics.url = "http://metrics.example.org/write";
      metrics.username = "x";
      metrics.passwordFile = "/run/x";
    } { }
  );
  "a password may go to this host unencrypted" =
    (with' {
      metrics.url = "http://127.0.0.1:8428/write";
      metrics.username = "x";
      metrics.passwordFile = "/run/x";
    } { }).failedAssertions == [ ];
  "fires: a key without certificate" = fires "nixfleet.o11y.journal: keyFile and certificateFile go together" (
    with' { journal.keyFile = "/run/k"; } { }
  );
}
