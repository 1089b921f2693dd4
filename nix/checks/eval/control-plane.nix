# SPDX-License-Identifier: MIT
# services.nixfleet-control-plane: its configuration file, its unit, and each assertion.
{
  lib,
  harness,
  root,
}:
let
  host =
    controlPlane:
    harness.nixos {
      modules = [
        (root + "/nix/modules/control-plane")
        {
          boot.loader.grub.device = "/dev/vda";
          fileSystems."/" = {
            device = "/dev/vda1";
            fsType = "ext4";
          };
          networking.hostName = "cp-01";
          networking.domain = "example.org";
          system.stateVersion = "24.11";
          services.nixfleet-control-plane = lib.recursiveUpdate {
            enable = true;
            package = harness.pkgs.hello;
            trust.rootFile = builtins.toFile "root.json" "{}";
          } controlPlane;
        }
      ];
    };

  bare = host { };
  full = host {
    openFirewall = true;
    listen.operators = "[::]:443";
    tls = {
      certFile = "/run/secrets/cert.pem";
      keyFile = "/run/secrets/key.pem";
    };
    bootstrap.secretFile = "/run/secrets/bootstrap";
    backup = {
      passphraseFile = "/run/secrets/backup";
      keep = 3;
    };
    settings.database.url = "sqlite:///var/lib/nixfleet/control-plane/other.db";
  };
  wrong = host {
    trust.rootFile = null;
    tls.keyFile = "/run/secrets/key.pem";
    listen.metrics = "0.0.0.0:9443";
  };

  settings = system: system.config.services.nixfleet-control-plane.settings;
  service = system: system.config.systemd.services.nixfleet-control-plane.serviceConfig;
in
{
  "a host with the control plane evaluates" =
    bare.failedAssertions == [ ] && bare.warnings == [ ] && lib.hasSuffix ".drv" bare.toplevel;
  "a host with every option evaluates" = full.failedAssertions == [ ] && lib.hasSuffix ".drv" full.toplevel;
  "its file holds the options that are set and the defaults" = {
    expr = removeAttrs (settings bare) [ "trust" ];
    expected = {
      bootstrap = { };
      database = { };
      stateDir = "/var/lib/nixfleet/control-plane";
      listen = {
        operators = ":8443";
        agents = ":8444";
        metrics = "127.0.0.1:9443";
      };
      tls.names = [
        "cp-01.example.org"
        "localhost"
      ];
    };
  };
  "settings override the options" =
    (settings full).database.url == "sqlite:///var/lib/nixfleet/control-plane/other.db";
  "the service gets secrets as credentials" = {
    expr = {
      inherit (service full) LoadCredential;
      inherit ((settings full).bootstrap) secretFile;
    };
    expected = {
      LoadCredential = [ "bootstrap-secret:/run/secrets/bootstrap" ];
      secretFile = "/run/credentials/nixfleet-control-plane.service/bootstrap-secret";
    };
  };
  "its own certificate is copied to its runtime directory, again whenever it changes" = {
    expr =
      let
        unit = "nixfleet-control-plane-tls";
        byRoot = map (lib.hasPrefix "+/nix/store/");
      in
      {
        inherit ((settings full).tls) certFile keyFile;
        inherit (service full) RuntimeDirectory RuntimeDirectoryMode;
        start = byRoot (service full).ExecStartPre;
        reload = (service full).ExecReload == (service full).ExecStartPre;
        inherit (full.config.systemd.paths.${unit}.pathConfig) PathChanged;
        reloads = lib.hasSuffix "try-reload-or-restart nixfleet-control-plane.service" full.config.systemd.services.${unit}.serviceConfig.ExecStart;
        without = bare.config.systemd.paths ? ${unit} || service bare ? ExecStartPre;
      };
    expected = {
      certFile = "/run/nixfleet-control-plane/cert";
      keyFile = "/run/nixfleet-control-plane/key";
      RuntimeDirectory = "nixfleet-control-plane";
      RuntimeDirectoryMode = "0700";
      start = [ true ];
      reload = true;
      PathChanged = [
        "/run/secrets/cert.pem"
        "/run/secrets/key.pem"
      ];
      reloads = true;
      without = false;
    };
  };
  "the firewall is opened only by option, and never for metrics" = {
    expr = map (system: system.config.networking.firewall.allowedTCPPorts) [
      bare
      full
    ];
    expected = [
      [ ]
      [
        443
        8444
      ]
    ];
  };
  "it has no privilege except low ports, if it uses one" = {
    expr = map (system: (service system).AmbientCapabilities) [
      bare
      full
    ];
    expected = [
      [ ]
      [ "CAP_NET_BIND_SERVICE" ]
    ];
  };
  "backups are made by option: sealed, on time, by the same user, without the network" = {
    expr =
      let
        unit = "nixfleet-control-plane-backup";
        made = full.config.systemd.services.${unit};
      in
      {
        without = bare.config.systemd.services ? ${unit};
        inherit (made) startAt;
        inherit (made.serviceConfig) User LoadCredential StateDirectory;
        network = !made.serviceConfig.PrivateNetwork;
        command = lib.hasSuffix (
          "backup --config /etc/nixfleet/control-plane.toml --passphrase-file "
          + "/run/credentials/${unit}.service/passphrase --keep 3 /var/lib/nixfleet/backups"
        ) made.serviceConfig.ExecStart;
        persistent = full.config.systemd.timers.${unit}.timerConfig.Persistent;
      };
    expected = {
      without = false;
      startAt = [ "daily" ];
      User = "nixfleet-control-plane";
      LoadCredential = [ "passphrase:/run/secrets/backup" ];
      StateDirectory = [
        "nixfleet/control-plane"
        "nixfleet/backups"
      ];
      network = false;
      command = true;
      persistent = true;
    };
  };
  "its user exists only while it runs" = (service bare).DynamicUser && !(bare.config.users.users ? nixfleet-control-plane);
  "plain metrics can be reached from the network only by option" =
    (host {
      listen.metrics = "0.0.0.0:9443";
      allowPlainMetrics = true;
    }).failedAssertions == [ ];
  "every mistake is named with its remedy" = {
    expr = map (text: lib.any (lib.hasInfix text) wrong.failedAssertions) [
      "run `nixfleet trust init`"
      "tls.certFile and tls.keyFile go together"
      "set allowPlainMetrics = true"
    ];
    expected = [
      true
      true
      true
    ];
  };
}
