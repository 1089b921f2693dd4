# SPDX-License-Identifier: MIT
# Scope firewall: nftables, the SSH limit before the accept, the drop log. checks/real/ssh-limit.sh
# tests the rules with real packets.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) fires host;
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
  } { services.openssh.ports = [ 2222 ]; };
  inherit (good.config.networking) firewall nftables;
  rules = nftables.tables.nixfleet-ssh.content;
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
  "the firewall is on, on nftables" = firewall.enable && nftables.enable;
  "the limit hooks in before the firewall" = lib.hasInfix "hook input priority filter - 10;" rules;
  "the limit is for sshd's ports" = lib.hasInfix "tcp dport { 2222 } ct state new jump new-connection" rules;
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
    && quiet.config.networking.firewall.logRefusedConnections
    && quiet.config.networking.firewall.extraInputRules == "";
  "no port is opened" = (with' { } { services.openssh.openFirewall = false; }).config.networking.firewall.allowedTCPPorts == [ ];
  "fires: the firewall is off" = fires "networking.firewall.enable is false" (
    with' { } { networking.firewall.enable = false; }
  );
  "fires: nftables is off" = fires "needs networking.nftables.enable = true" (
    with' { logDropped.enable = false; sshRateLimit.enable = false; } { networking.nftables.enable = false; }
  );
}
