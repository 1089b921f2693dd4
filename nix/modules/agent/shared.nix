# SPDX-License-Identifier: MIT
# What the agent's options do on NixOS and nix-darwin: its configuration file and assertions.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.nixfleet-agent;

  withoutNull = lib.filterAttrsRecursive (_: value: value != null);
  byDefault = lib.mapAttrsRecursive (_: lib.mkDefault);

  probe =
    kind: fields: check:
    fields check
    // {
      inherit kind;
      inherit (check) retries successes required;
      intervalSeconds = check.interval;
      timeoutSeconds = check.timeout;
      startPeriodSeconds = check.startPeriod;
    };
  checks = kind: fields: lib.mapAttrs (_: probe kind fields);
  declared = [
    (checks "unit" (check: { inherit (check) unit; }) cfg.healthChecks.systemd)
    (checks "launchd" (check: { inherit (check) label; }) cfg.healthChecks.launchd)
    (checks "http" (check: { inherit (check) url expectStatus; }) cfg.healthChecks.http)
    (checks "tcp" (check: { inherit (check) address; }) cfg.healthChecks.tcp)
    (checks "command" (check: { inherit (check) command; }) cfg.healthChecks.command)
  ];
  names = lib.concatMap lib.attrNames declared;
  twice = lib.unique (lib.filter (name: lib.count (other: other == name) names > 1) names);
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf cfg.enable {
    services.nixfleet-agent.settings = byDefault (withoutNull {
      inherit (cfg)
        machineId
        line
        tags
        dryRun
        stateDir
        ;
      controlPlane = cfg.controlPlane // {
        caFile = if cfg.controlPlane.caFile == null then null else "${cfg.controlPlane.caFile}";
      };
      trust = cfg.trust // {
        rootFile = if cfg.trust.rootFile == null then null else "${cfg.trust.rootFile}";
      };
      inherit (cfg) confirm reboot;
      metrics.listen =
        if cfg.metrics.port == null then null else "${cfg.metrics.address}:${toString cfg.metrics.port}";
      checks = lib.mergeAttrsList declared;
    });

    environment.etc."nixfleet/agent.toml".source = cfg.configFile;
    environment.systemPackages = [ cfg.package ];

    assertions = [
      {
        assertion = cfg.settings ? controlPlane.url;
        message = "services.nixfleet-agent.controlPlane.url must be set to the control plane's listener for agents, for example https://fleet.example.org:8444.";
      }
      {
        assertion = cfg.settings ? trust.rootFile || cfg.settings.trust.unsigned or false;
        message = "services.nixfleet-agent.trust.rootFile must name the fleet's root document; run `nixfleet trust init` and add the file to the flake.";
      }
      {
        assertion = (cfg.identity.certFile == null) == (cfg.identity.keyFile == null);
        message = "services.nixfleet-agent.identity.certFile and identity.keyFile go together: set both, or neither for a certificate by enrolment.";
      }
      {
        assertion = (cfg.reboot.policy == "window") == (cfg.reboot.window != null);
        message = ''services.nixfleet-agent.reboot.window goes with reboot.policy = "window": set both, for example window = "0 3 * * * 2h Europe/Paris", or neither.'';
      }
      {
        assertion = twice == [ ];
        message = "services.nixfleet-agent.healthChecks: the names ${lib.concatStringsSep ", " twice} are used by checks of two kinds; rename one.";
      }
    ];
  };
}
