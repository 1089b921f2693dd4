# SPDX-License-Identifier: MIT
# Scope firewall: the SSH limit before the accept, the drop log, beside nftables and iptables. checks/real/ssh-limit.sh
# tests the rules with real packets.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) host;
  scopes = import (root + "/nix/scopes");

  with' =
    firewall: module:
    host [
      scopes.nixosModules.firewall
      {
        services.openssh.enable = true;
        nixfleet.firewall = {
          enable = true;
        } // firewall;
      }
      module
    ];
  good = with' {
    sshRateLimit = {
      connections = 6;
      per = "hour";
      burst = 3;
      exempt = [
        "10.0.0.0/8"
        "fd00::/8"
      ];
    };
  } {
    networking.nftables.enable = true;
    services.openssh.ports = [ 2222 ];
    services.openssh.listenAddresses = [
      { addr = "10.0.0.5"; }
      {
        addr = "10.0.0.6";
        port = 2200;
      }
    ];
  };
  inherit (good.config.networking) firewall nftables;
  old = with' { } { networking.firewall.extraCommands = "iptables -A nixos-fw -s 10.0.0.0/8 -j nixos-fw-accept"; };
  open = with' { } { networking.firewall.enable = false; };
  rules = nftables.tables.nixfleet-ssh.content;
  # NixOS 25.11 and later.
  firewalld = with' { } {
    options = lib.optionalAttrs (!(good.options.networking.firewall ? backend)) {
      networking.firewall.backend = lib.mkOption { type = lib.types.str; };
    };
    config.networking.firewall = {
      backend = "firewalld";
      logRefusedConnections = lib.mkOverride 1400 true;
    };
  };
  quiet = with' {
    logDropped.enable = false;
    sshRateLimit.enable = false;
  } { };
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.firewall ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "the firewall of nftables loads the limit" = firewall.enable && !(good.config.systemd.services ? nixfleet-ssh-limit);
  "beside iptables a unit loads it, and the host's own rules stay" =
    old.failedAssertions == [ ]
    && !old.config.networking.nftables.enable
    && lib.hasInfix "/bin/nft --file " old.config.systemd.services.nixfleet-ssh-limit.serviceConfig.ExecStart
    && old.config.systemd.services.nixfleet-ssh-limit.before == [
      "network-pre.target"
      "shutdown.target"
    ];
  "the drop log of iptables comes after the host's own rules" =
    let
      parts = lib.splitString "iptables -A nixos-fw -s 10.0.0.0/8" old.config.networking.firewall.extraCommands;
    in
    lib.length parts == 2 && lib.hasInfix "-A nixos-fw -m limit --limit 30/minute --limit-burst 30 -j LOG" (lib.last parts);
  "a host without a firewall keeps none, and a warning says so" =
    open.failedAssertions == [ ]
    && lib.any (lib.hasInfix "networking.firewall.enable is false, so nothing is filtered or limited") open.warnings
    && !(open.config.systemd.services ? nixfleet-ssh-limit);
  "firewalld keeps its own log, and the limit comes beside it" = {
    expr = {
      inherit (firewalld) failedAssertions;
      inherit (firewalld.config.networking.firewall) extraInputRules logRefusedConnections;
      commands = lib.hasInfix "nixfleet drop" firewalld.config.networking.firewall.extraCommands;
      limit = firewalld.config.systemd.services ? nixfleet-ssh-limit;
    };
    expected = {
      failedAssertions = [ ];
      commands = false;
      extraInputRules = "";
      logRefusedConnections = true;
      limit = true;
    };
  };
  "the limit hooks in before the firewall" = lib.hasInfix "hook input priority filter - 10;" rules;
  "the limit is for sshd's ports, also those of single addresses" = lib.hasInfix "tcp dport { 2222, 2200 } ct state new jump new-connection" rules;
  "the limit is as set" =
    lib.hasInfix "update @sources4 { ip saddr limit rate over 6/hour burst 3 packets }" rules;
  "IPv6 sources are counted by network" = lib.hasInfix "ip6 saddr & ffff:ffff:ffff:ffff:: limit rate over" rules;
  "exempt networks are split by family" =
    lib.hasInfix "ip saddr { 10.0.0.0/8 } accept" rules && lib.hasInfix "ip6 saddr { fd00::/8 } accept" rules;
  "the drop log is bounded and last" =
    !firewall.logRefusedConnections
    && lib.hasSuffix "limit rate 30/minute burst 30 packets log level info prefix \"nixfleet drop: \"\n" firewall.extraInputRules;
  "no limit without sshd" =
    !((with' { } { services.openssh.enable = lib.mkForce false; }).config.networking.nftables.tables ? nixfleet-ssh);
  "limit and log can be off" =
    !(quiet.config.networking.nftables.tables ? nixfleet-ssh)
    && quiet.config.networking.firewall.logRefusedConnections == (host [ ]).config.networking.firewall.logRefusedConnections
    && quiet.config.networking.firewall.extraInputRules == "";
  "no port is opened" = (with' { } { services.openssh.openFirewall = false; }).config.networking.firewall.allowedTCPPorts == [ ];
}
