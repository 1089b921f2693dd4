# SPDX-License-Identifier: MIT
# services.nixfleet-agent: its configuration file, its units, and each assertion.
{
  lib,
  harness,
  root,
}:
let
  inherit (import (root + "/nix/lib") { inherit (harness) nixpkgs; }) mkHost;

  minimal = {
    enable = true;
    package = harness.pkgs.hello;
    controlPlane.url = "https://fleet.example.org:8444";
    trust.rootFile = builtins.toFile "root.json" "{}";
  };
  systemOf =
    platform: extra: agent:
    harness.view (mkHost {
      hostName = "web-01";
      inherit platform;
      stateVersion = if platform == "aarch64-darwin" then 5 else "24.11";
      darwin = harness.nix-darwin;
      modules = [
        extra
        { services.nixfleet-agent = lib.recursiveUpdate minimal agent; }
      ];
    });
  host = systemOf "x86_64-linux" {
    boot.loader.grub.device = "/dev/vda";
    fileSystems."/" = {
      device = "/dev/vda1";
      fsType = "ext4";
    };
  };
  mac = systemOf "aarch64-darwin" { };

  fileOf =
    system:
    builtins.fromTOML (
      builtins.unsafeDiscardStringContext system.config.environment.etc."nixfleet/agent.toml".source.unchecked.text
    );
  # Evaluation does not know the contents of real packages.
  withText =
    system: test:
    if system.config.services.nixfleet-agent.configFile.unchecked ? text then
      test
    else
      { skip = "the file's text is known with the stand-in packages only"; };
  onMac = test: if harness.darwin == null then { skip = "NIX_DARWIN is not set"; } else test;
  # One host is enough for the assertions: every failed one is listed.
  complains = system: text: lib.any (lib.hasInfix text) system.failedAssertions;

  bare = host { };
  unit = name: bare.config.systemd.units.${name}.text;
  full = host {
    tags = [ "web" ];
    line = "staging";
    dryRun = true;
    identity = {
      certFile = "/run/secrets/cert.pem";
      keyFile = "/run/secrets/key.pem";
      tokenFile = "/run/secrets/token";
    };
    metrics = {
      port = 9445;
      address = "0.0.0.0";
    };
    openFirewall = true;
    reboot = {
      policy = "window";
      window = "0 3 * * * 2h Europe/Paris";
    };
    settings.controlPlane.pollSeconds = 300;
    healthChecks = {
      systemd.nginx = { };
      http.front = {
        url = "http://127.0.0.1/health";
        expectStatus = 204;
        interval = 5;
        startPeriod = 60;
      };
      tcp.db.address = "127.0.0.1:5432";
      command.mail = {
        command = [ "/run/current-system/sw/bin/true" ];
        required = false;
      };
    };
  };
  wrong = host {
    controlPlane.url = null;
    trust.rootFile = null;
    identity.certFile = "/run/secrets/cert.pem";
    reboot.policy = "window";
    openFirewall = true;
    healthChecks = {
      launchd.agent = { };
      tcp.front.address = "127.0.0.1:80";
      http.front.url = "http://127.0.0.1";
    };
  };
in
{
  "a host with the agent evaluates" =
    bare.failedAssertions == [ ] && bare.warnings == [ ] && lib.hasSuffix ".drv" bare.toplevel;
  "its file holds the options that are set and the defaults" = withText bare {
    expr = removeAttrs (fileOf bare) [ "trust" ];
    expected = {
      machineId = "web-01";
      line = "main";
      tags = [ ];
      dryRun = false;
      stateDir = "/var/lib/nixfleet/agent";
      controlPlane = {
        url = "https://fleet.example.org:8444";
        pollSeconds = 60;
        longPollSeconds = 55;
      };
      confirm = {
        deadlineSeconds = 300;
        beacons = [ ];
      };
      reboot.policy = "never";
      metrics = { };
      checks = { };
    };
  };
  "checks become the agent's, by name" = withText full {
    expr = (fileOf full).checks;
    expected = {
      nginx = {
        kind = "unit";
        unit = "nginx.service";
        required = true;
      };
      front = {
        kind = "http";
        url = "http://127.0.0.1/health";
        expectStatus = 204;
        intervalSeconds = 5;
        startPeriodSeconds = 60;
        required = true;
      };
      db = {
        kind = "tcp";
        address = "127.0.0.1:5432";
        required = true;
      };
      mail = {
        kind = "command";
        command = [ "/run/current-system/sw/bin/true" ];
        required = false;
      };
    };
  };
  "settings override the options" = withText full {
    expr = {
      inherit (fileOf full) line dryRun tags metrics;
      inherit ((fileOf full).controlPlane) pollSeconds;
    };
    expected = {
      line = "staging";
      dryRun = true;
      tags = [ "web" ];
      metrics.listen = "0.0.0.0:9445";
      pollSeconds = 300;
    };
  };
  "the agent reads certificate, key and token in place, so that it sees what is renewed" = {
    expr = {
      copies = full.config.systemd.services.nixfleet-agent.serviceConfig ? LoadCredential;
      inherit (full.config.services.nixfleet-agent.settings) identity;
    };
    expected = {
      copies = false;
      identity = {
        certFile = "/run/secrets/cert.pem";
        keyFile = "/run/secrets/key.pem";
        tokenFile = "/run/secrets/token";
      };
    };
  };
  "only the metrics port is opened, and only by option" = {
    expr = map (system: system.config.networking.firewall.allowedTCPPorts) [
      bare
      full
    ];
    expected = [
      [ ]
      [ 9445 ]
    ];
  };
  "a switch does not restart the agent and the watchdog" =
    lib.hasInfix "X-RestartIfChanged=false" (unit "nixfleet-agent.service")
    && lib.hasInfix "X-RestartIfChanged=false" (unit "nixfleet-watchdog.service");
  "a changed configuration restarts the agent after the switch" =
    let
      trigger = system: system.config.systemd.units."nixfleet-agent-restart.service".text;
    in
    trigger bare != trigger full;
  "the watchdog enforces the deadline without the agent" =
    lib.hasInfix "watchdog --config /etc/nixfleet/agent.toml" (unit "nixfleet-watchdog.service")
    && lib.hasInfix "ConditionPathExists=/var/lib/nixfleet/agent/watchdog.json" (unit "nixfleet-watchdog.service")
    && lib.hasInfix "OnCalendar=" (unit "nixfleet-watchdog.timer")
    && bare.config.systemd.timers.nixfleet-watchdog.wantedBy == [ "timers.target" ];
  "every mistake is named with its remedy" = {
    expr = map (complains wrong) [
      "controlPlane.url must be set"
      "run `nixfleet trust init`"
      "identity.certFile and identity.keyFile go together"
      "reboot.window goes with reboot.policy"
      "the names front are used by checks of two kinds"
      "healthChecks.launchd is for macOS"
      "openFirewall opens metrics.port"
    ];
    expected = lib.genList (_: true) 7;
  };
  "a secret in the store is refused" = {
    expr =
      (host {
        identity.tokenFile = "${builtins.toFile "token" "secret"}";
      }).config.services.nixfleet-agent.identity;
    throws = "absolute path of a file outside the Nix store";
  };
  "a Mac has the same options, as launchd daemons" = onMac (
    let
      system = mac { healthChecks.launchd.sshd.label = "com.openssh.sshd"; };
      daemons = system.config.launchd.daemons;
    in
    {
      expr = {
        inherit (system) failedAssertions;
        evaluates = lib.hasSuffix ".drv" system.toplevel;
        inherit (daemons.nixfleet-agent.serviceConfig) KeepAlive AbandonProcessGroup;
        inherit (daemons.nixfleet-watchdog.serviceConfig) StartInterval;
        # The agent finds both by these labels, and itself by the program that launchd starts.
        labels = map (daemon: daemon.serviceConfig.Label) (lib.attrValues {
          inherit (daemons) nixfleet-agent nixfleet-watchdog;
        });
        arguments = lib.tail daemons.nixfleet-agent.serviceConfig.ProgramArguments;
        inherit (fileOf system) checks;
      };
      expected = {
        failedAssertions = [ ];
        evaluates = true;
        KeepAlive = true;
        AbandonProcessGroup = true;
        StartInterval = 10;
        labels = [
          "org.nixfleet.agent"
          "org.nixfleet.watchdog"
        ];
        arguments = [
          "run"
          "--config"
          "/etc/nixfleet/agent.toml"
        ];
        checks.sshd = {
          kind = "launchd";
          label = "com.openssh.sshd";
          required = true;
        };
      };
    }
  );
  "a Mac whose Nix belongs to another installer uses that one" = onMac (
    lib.hasPrefix "/nix/var/nix/profiles/default/bin:" (systemOf "aarch64-darwin" { nix.enable = false; } { }).config.launchd.daemons.nixfleet-agent.serviceConfig.EnvironmentVariables.PATH
  );
  "a plain assignment in the unit wins" =
    (systemOf "x86_64-linux" { systemd.services.nixfleet-agent.serviceConfig.RestartSec = 60; } { }).config.systemd.services.nixfleet-agent.serviceConfig.RestartSec == 60;
  "a Mac refuses checks of systemd units" = onMac (
    complains (mac { healthChecks.systemd.nginx = { }; }) "healthChecks.systemd is for NixOS"
  );
}
