# SPDX-License-Identifier: MIT
# The agent as a systemd service, and the watchdog that rolls the host back when a new system is not
# confirmed in time. Both run as root: they set the system profile and start the switch.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.nixfleet-agent;
  inherit (import ../../lib/priorities.nix lib) suggest suggestSettings;
  program = lib.getExe cfg.package;
  ownCertificate = cfg.identity.certFile != null && cfg.identity.keyFile != null;

  # A switch does not restart the agent's unit. After its own switch, the agent restarts itself into
  # the new system's agent. After a rebuild by hand, this restarts it, once the rebuild has ended. A
  # restart is safe in any state: the journal says which step the agent was in.
  restart = pkgs.writeShellApplication {
    name = "nixfleet-agent-restart";
    runtimeInputs = [
      config.systemd.package
      pkgs.coreutils
      pkgs.util-linux
    ];
    text = ''
      if [ "''${1:-}" = now ]; then
        # Wait for the switch, and release the lock before the agent tries it.
        flock /run/nixos/switch-to-configuration.lock true
        exec systemctl try-restart nixfleet-agent.service
      fi
      # At boot the agent does not run yet.
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
      # Not credentials: those are copied when the unit starts, and a renewed certificate is used
      # without a restart. The token's file may be deleted after enrolment.
      (lib.mkIf ownCertificate {
        certFile = lib.mkDefault cfg.identity.certFile;
        keyFile = lib.mkDefault cfg.identity.keyFile;
      })
      (lib.mkIf (cfg.identity.tokenFile != null) { tokenFile = lib.mkDefault cfg.identity.tokenFile; })
    ];

    systemd.services.nixfleet-agent = {
      description = suggest "NixFleet agent";
      documentation = [ "https://github.com/arcanesys/nixfleet" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [
        "network-online.target"
        "nix-daemon.socket"
      ];
      # It must survive the switch that it started; it decides when the new agent takes over.
      restartIfChanged = false;
      stopIfChanged = false;
      unitConfig = suggestSettings {
        RequiresMountsFor = [ cfg.stateDir ];
        StartLimitIntervalSec = 0; # to stop trying never helps
      };
      path = [ config.nix.package ];
      environment = suggestSettings {
        NIX_REMOTE = "daemon";
        # Nix keeps its data about caches here.
        HOME = "/var/cache/nixfleet-agent";
      };
      serviceConfig = suggestSettings {
        Type = "exec";
        ExecStart = "${program} run --config /etc/nixfleet/agent.toml";
        Restart = "always";
        RestartSec = 5;
        OOMScoreAdjust = -500;
        CacheDirectory = "nixfleet-agent";
        RuntimeDirectory = "nixfleet";
        RuntimeDirectoryPreserve = true; # holds and the release's data survive a restart
        # It runs as root for the profile, the garbage collector's roots and the switch. The switch runs
        # in a unit of its own, so this unit needs to write nowhere else.
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
          # systemd and logind require these two of callers that start the switch or reboot.
          "CAP_SYS_ADMIN"
          "CAP_SYS_BOOT"
          # Files of root and of other users; programs that exceed their time limit.
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
      description = "Restart the NixFleet agent with its current configuration";
      wantedBy = [ "multi-user.target" ];
      before = [ "nixfleet-agent.service" ];
      restartTriggers = [
        cfg.package
        cfg.configFile
        config.systemd.units."nixfleet-agent.service".text
      ];
      serviceConfig = suggestSettings {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = lib.getExe restart;
      };
    };

    # A new system may break the agent: this enforces the deadline without it. It runs a switch, so it
    # has access to the whole host.
    systemd.services.nixfleet-watchdog = {
      description = "Roll back to the previous system when the new one is not confirmed in time";
      restartIfChanged = false;
      path = [ config.nix.package ];
      unitConfig = suggestSettings {
        ConditionPathExists = "${cfg.stateDir}/watchdog.json";
        RequiresMountsFor = [ cfg.stateDir ];
        StartLimitIntervalSec = 0;
      };
      serviceConfig = suggestSettings {
        Type = "oneshot";
        ExecStart = "${program} watchdog --config /etc/nixfleet/agent.toml";
      };
    };

    systemd.timers.nixfleet-watchdog = {
      description = "Check the confirm deadline";
      wantedBy = [ "timers.target" ];
      # By the calendar: a monotonic timer does not elapse again after a start whose condition failed.
      timerConfig = suggestSettings {
        OnCalendar = "*:*:0/10";
        AccuracySec = "1s";
      };
    };

    systemd.tmpfiles.settings."10-nixfleet-agent" = {
      ${cfg.stateDir}.d = suggestSettings {
        mode = "0700";
        user = "root";
        group = "root";
      };
      "/nix/var/nix/gcroots/nixfleet".d = suggestSettings {
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
        message = "services.nixfleet-agent.openFirewall opens metrics.port: set metrics.port, and set metrics.address to an address that Prometheus can reach.";
      }
    ];
  };
}
