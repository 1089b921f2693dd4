# SPDX-License-Identifier: MIT
# The control plane as a systemd service without privileges. It has a user of its own, which exists
# while it runs, and its state directory; it has access to nothing else on the host.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.nixfleet-control-plane;
  inherit (import ../../lib/priorities.nix lib) suggest suggestSettings;
  unit = "nixfleet-control-plane";
  backupUnit = "${unit}-backup";
  credential = name: "/run/credentials/${unit}.service/${name}";
  stateDir = "/var/lib/nixfleet/control-plane";

  withoutNull = lib.filterAttrsRecursive (_: value: value != null);
  byDefault = lib.mapAttrsRecursive (_: lib.mkDefault);
  file = path: if path == null then null else "${path}";
  secret = name: path: if path == null then null else credential name;

  portOf = address: lib.toInt (lib.last (lib.splitString ":" address));
  hostOf = address: lib.removeSuffix ":${toString (portOf address)}" address;
  loopback = address: lib.elem (hostOf address) [ "127.0.0.1" "[::1]" "localhost" ];

  # Its own user cannot read the files of a certificate of one's own, and a credential is copied only
  # when the unit starts. So root copies them to the runtime directory, at the start and at a reload.
  ownCertificate = cfg.tls.certFile != null && cfg.tls.keyFile != null;
  tlsUnit = "${unit}-tls";
  runtime = name: "/run/${unit}/${name}";
  copyTls = pkgs.writeShellApplication {
    name = tlsUnit;
    runtimeInputs = [ pkgs.coreutils ];
    runtimeEnv = {
      TLS_CERT = cfg.tls.certFile;
      TLS_KEY = cfg.tls.keyFile;
    };
    text = builtins.readFile ./tls.sh;
  };

  privileged = lib.any (address: portOf address < 1024) (lib.attrValues cfg.listen);

  # What both services are confined to: their own state, and no privilege.
  confinement = import ../confinement.nix // {
    DynamicUser = true;
    User = unit;
    UMask = "0077";
    DeviceAllow = [ "" ];
    DevicePolicy = "closed";
    RemoveIPC = true;
  };

  configFile = import ../config-file.nix {
    inherit lib pkgs;
    inherit (cfg) package settings;
    name = "control-plane.toml";
    check = cfg.checkConfig;
  };
in
{
  _class = "nixos";
  imports = [ ./options.nix ];

  config = lib.mkIf cfg.enable {
    services.nixfleet-control-plane = {
      tls.names = lib.mkDefault [
        config.networking.fqdnOrHostName
        "localhost"
      ];
      settings = byDefault (withoutNull {
        inherit stateDir;
        inherit (cfg) listen;
        tls = {
          inherit (cfg.tls) names;
          certFile = if ownCertificate then runtime "cert" else null;
          keyFile = if ownCertificate then runtime "key" else null;
          clientCaFile = file cfg.tls.clientCaFile;
        };
        database = { inherit (cfg.database) url; };
        trust.rootFile = file cfg.trust.rootFile;
        bootstrap.secretFile = secret "bootstrap-secret" cfg.bootstrap.secretFile;
      });
    };

    environment.etc."nixfleet/control-plane.toml".source = configFile;
    environment.systemPackages = [ cfg.package ];

    systemd.services.${unit} = {
      description = "NixFleet control plane";
      documentation = [ "https://github.com/arcanesys/nixfleet" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      restartTriggers = [ configFile ];
      # Keep the interruption short: stop and start in one go, after the switch.
      stopIfChanged = false;
      serviceConfig = suggestSettings (confinement // {
        ExecStart = "${lib.getExe cfg.package} run --config /etc/nixfleet/control-plane.toml";
        Restart = "always";
        RestartSec = 2;
        StateDirectory = "nixfleet/control-plane";
        StateDirectoryMode = "0700";
        LoadCredential = lib.optional (
          cfg.bootstrap.secretFile != null
        ) "bootstrap-secret:${cfg.bootstrap.secretFile}";
        RuntimeDirectory = unit;
        RuntimeDirectoryMode = "0700";
        LimitNOFILE = 524288; # a connection for each agent
        AmbientCapabilities = lib.optional privileged "CAP_NET_BIND_SERVICE";
        CapabilityBoundingSet = if privileged then [ "CAP_NET_BIND_SERVICE" ] else [ "" ];
        PrivateUsers = !privileged; # in a user namespace it could not bind low ports
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
        ];
      } // lib.optionalAttrs ownCertificate {
        # As root: see copyTls. The control plane sees by itself that the files have changed.
        ExecStartPre = [ "+${lib.getExe copyTls}" ];
        ExecReload = [ "+${lib.getExe copyTls}" ];
      });
    };

    # A certificate that is renewed by whatever means is copied at once.
    systemd.paths.${tlsUnit} = lib.mkIf ownCertificate {
      description = suggest "Certificate of the NixFleet control plane";
      wantedBy = [ "multi-user.target" ];
      pathConfig.PathChanged = [
        cfg.tls.certFile
        cfg.tls.keyFile
      ];
    };
    systemd.services.${tlsUnit} = lib.mkIf ownCertificate {
      description = suggest "Reload the certificate of the NixFleet control plane";
      unitConfig.StartLimitIntervalSec = suggest 0; # cert and key may change one after the other
      serviceConfig = suggestSettings {
        Type = "oneshot";
        ExecStart = "${config.systemd.package}/bin/systemctl try-reload-or-restart ${unit}.service";
      };
    };

    systemd.services.${backupUnit} = lib.mkIf (cfg.backup.passphraseFile != null) {
      description = "Backup of the NixFleet control plane";
      documentation = [ "https://github.com/arcanesys/nixfleet" ];
      after = [ "${unit}.service" ];
      startAt = cfg.backup.calendar;
      serviceConfig = suggestSettings (confinement // {
        Type = "oneshot";
        ExecStart =
          "${lib.getExe cfg.package} backup --config /etc/nixfleet/control-plane.toml "
          + "--passphrase-file /run/credentials/${backupUnit}.service/passphrase "
          + "--keep ${toString cfg.backup.keep} /var/lib/nixfleet/backups";
        StateDirectory = [
          "nixfleet/control-plane"
          "nixfleet/backups"
        ];
        StateDirectoryMode = "0700";
        LoadCredential = [ "passphrase:${cfg.backup.passphraseFile}" ];
        CapabilityBoundingSet = [ "" ];
        IPAddressDeny = "any";
        PrivateNetwork = true;
        PrivateUsers = true;
        RestrictAddressFamilies = [ "AF_UNIX" ];
      });
    };
    # One that was missed, because the machine was off, is made at the next start.
    systemd.timers.${backupUnit} = lib.mkIf (cfg.backup.passphraseFile != null) {
      timerConfig.Persistent = true;
    };

    networking.firewall.allowedTCPPorts = lib.optionals cfg.openFirewall [
      (portOf cfg.listen.operators)
      (portOf cfg.listen.agents)
    ];

    assertions = [
      {
        assertion = (cfg.tls.certFile == null) == (cfg.tls.keyFile == null);
        message = "services.nixfleet-control-plane.tls.certFile and tls.keyFile go together: set both, or neither for the control plane's own CA.";
      }
      {
        assertion = loopback cfg.listen.metrics || cfg.allowPlainMetrics;
        message = "services.nixfleet-control-plane.listen.metrics ${cfg.listen.metrics} is plain HTTP reachable from the network: use 127.0.0.1, or set allowPlainMetrics = true.";
      }
      {
        assertion = cfg.trust.rootFile != null || cfg.settings ? trust.rootFile;
        message = "services.nixfleet-control-plane.trust.rootFile must name the fleet's root document; run `nixfleet trust init` and add the file to the flake.";
      }
    ];
  };
}
