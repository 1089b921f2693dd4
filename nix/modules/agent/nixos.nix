# SPDX-License-Identifier: MIT
# The agent as a systemd service, and the watchdog that takes the host back when a new system does
# not reach the network. Both are root: they set the system profile and start the switch.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.nixfleet-agent;
  program = lib.getExe cfg.package;
  credential = name: "/run/credentials/nixfleet-agent.service/${name}";
  ownCertificate = cfg.identity.certFile != null && cfg.identity.keyFile != null;

  # A switch leaves the agent's unit alone, and the agent hands over by itself after a switch of its
  # own; what a rebuild by hand changed reaches it by this, once that has ended. Restarting it is safe
  # in any state: its journal says where it was.
  restart = pkgs.writeShellApplication {
    name = "nixfleet-agent-restart";
    runtimeInputs = [
      config.systemd.package
      pkgs.coreutils
      pkgs.util-linux
    ];
    text = ''
      if [ "''${1:-}" = now ]; then
        # Waits for the switch, and lets go before the agent looks at the lock itself.
        flock /run/nixos/switch-to-configuration.lock true
        exec systemctl try-restart nixfleet-agent.service
      fi
      # At boot there is nothing to restart yet.
      systemctl is-active --quiet nixfleet-agent.service || exit 0
      mkdir -p /run/nixos
      exec systemd-run --collect --no-block --quiet --unit="nixfleet-agent-restart-$INVOCATION_ID" "$0" now
    '';
  };
in
{
  _class = "nixos";
  imports = [ ./shared.nix ];

  options.services.nixfleet-agent.openFirewall = lib.mkOption {
    type = lib.types.bool;
    default = false;
    description = "Whether to open `metrics.port` in the firewall.";
  };

  config = lib.mkIf cfg.enable {
    services.nixfleet-agent.settings.identity = lib.mkMerge [
      (lib.mkIf ownCertificate {
        certFile = lib.mkDefault (credential "cert");
        keyFile = lib.mkDefault (credential "key");
      })
      # Not a credential: the file is gone after enrolment, and a credential must exist.
      (lib.mkIf (cfg.identity.tokenFile != null) { tokenFile = lib.mkDefault cfg.identity.tokenFile; })
    ];

    systemd.services.nixfleet-agent = {
      description = "NixFleet agent";
      documentation = [ "https://github.com/arcanesys/nixfleet" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [
        "network-online.target"
        "nix-daemon.socket"
      ];
      # It lives through the switch it started, and decides itself when to become the new one.
      restartIfChanged = false;
      stopIfChanged = false;
      unitConfig = {
        RequiresMountsFor = [ cfg.stateDir ];
        StartLimitIntervalSec = 0; # there is no state in which giving up helps
      };
      path = [ config.nix.package ];
      environment = {
        NIX_REMOTE = "daemon";
        # Where Nix keeps what it knows of caches.
        HOME = "/var/cache/nixfleet-agent";
      };
      serviceConfig = {
        Type = "exec";
        ExecStart = "${program} run --config /etc/nixfleet/agent.toml";
        Restart = "always";
        RestartSec = 5;
        OOMScoreAdjust = -500;
        LoadCredential = lib.optionals ownCertificate [
          "cert:${cfg.identity.certFile}"
          "key:${cfg.identity.keyFile}"
        ];
        CacheDirectory = "nixfleet-agent";
        RuntimeDirectory = "nixfleet";
        RuntimeDirectoryPreserve = true; # holds and the release's data outlive a restart
        # Root, for the profile, the garbage collector's roots and the switch; the switch itself runs
        # in a unit of its own, so this one needs to write nowhere else.
        ProtectSystem = "strict";
        ReadWritePaths = [
          "/nix/var/nix"
          "/run"
          cfg.stateDir
        ];
        PrivateTmp = true;
        ProtectHome = "read-only";
        ProtectControlGroups = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectHostname = true;
        ProtectClock = true;
        LockPersonality = true;
        NoNewPrivileges = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        RestrictNamespaces = true;
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
        ];
        SystemCallArchitectures = "native";
        CapabilityBoundingSet = [
          # systemd and logind ask callers for these two before they start the switch or reboot.
          "CAP_SYS_ADMIN"
          "CAP_SYS_BOOT"
          # Files of root's and of others, and programs that are over their time.
          "CAP_CHOWN"
          "CAP_DAC_OVERRIDE"
          "CAP_DAC_READ_SEARCH"
          "CAP_FOWNER"
          "CAP_KILL"
          # Health checks that ping or become another user.
          "CAP_NET_RAW"
          "CAP_SETGID"
          "CAP_SETUID"
        ];
      };
    };

    systemd.services.nixfleet-agent-restart = {
      description = "Bring the NixFleet agent to its current configuration";
      wantedBy = [ "multi-user.target" ];
      before = [ "nixfleet-agent.service" ];
      restartTriggers = [
        cfg.package
        cfg.configFile
        config.systemd.units."nixfleet-agent.service".text
      ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = lib.getExe restart;
      };
    };

    # The agent may be what a new system broke: this looks after the deadline without it. It runs a
    # switch, so nothing of the host is closed to it.
    systemd.services.nixfleet-watchdog = {
      description = "Return to the previous system when the new one is not confirmed in time";
      restartIfChanged = false;
      path = [ config.nix.package ];
      unitConfig = {
        ConditionPathExists = "${cfg.stateDir}/watchdog.json";
        RequiresMountsFor = [ cfg.stateDir ];
        StartLimitIntervalSec = 0;
      };
      serviceConfig = {
        Type = "oneshot";
        ExecStart = "${program} watchdog --config /etc/nixfleet/agent.toml";
      };
    };

    systemd.timers.nixfleet-watchdog = {
      description = "Look after the confirm deadline";
      wantedBy = [ "timers.target" ];
      # By the calendar: a monotonic timer is not set again after a start whose condition failed.
      timerConfig = {
        OnCalendar = "*:*:0/10";
        AccuracySec = "1s";
      };
    };

    systemd.tmpfiles.settings."10-nixfleet-agent" = {
      ${cfg.stateDir}.d = {
        mode = "0700";
        user = "root";
        group = "root";
      };
      "/nix/var/nix/gcroots/nixfleet".d = {
        mode = "0755";
        user = "root";
        group = "root";
      };
    };

    networking.firewall.allowedTCPPorts = lib.optional (
      cfg.openFirewall && cfg.metrics.port != null
    ) cfg.metrics.port;

    assertions = [
      {
        assertion = cfg.healthChecks.launchd == { };
        message = "services.nixfleet-agent.healthChecks.launchd is for macOS; use healthChecks.systemd on NixOS.";
      }
      {
        assertion = cfg.openFirewall -> cfg.metrics.port != null;
        message = "services.nixfleet-agent.openFirewall opens metrics.port: set it, and metrics.address to where Prometheus reaches it.";
      }
    ];
  };
}
