# SPDX-License-Identifier: MIT
# Scope firewall (NixOS): nftables, a limit on new SSH connections per source, and a rate-limited drop log.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.firewall;
  limit = cfg.sshRateLimit;
  limited = limit.enable && config.services.openssh.enable;

  isIPv6 = lib.hasInfix ":";
  exempt4 = lib.filter (net: !isIPv6 net) limit.exempt;
  exempt6 = lib.filter isIPv6 limit.exempt;
  set = elements: "{ ${lib.concatStringsSep ", " elements} }";
  exemptRule = family: nets: lib.optionalString (nets != [ ]) "${family} saddr ${set nets} accept";

  # `over` matches what exceeds the rate: those packets are logged and dropped.
  over = "limit rate over ${toString limit.connections}/${limit.per} burst ${toString limit.burst} packets";
  trusted = lib.unique ([ "lo" ] ++ config.networking.firewall.trustedInterfaces);
in
{
  _class = "nixos";

  options.nixfleet.firewall = {
    enable = lib.mkEnableOption "the NixOS firewall on nftables, with a limit on new SSH connections";

    sshRateLimit = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Whether to limit how many new connections one source may open to sshd's ports. The limit counts
          IPv4 addresses and IPv6 /64 networks. It applies before every rule that would accept the packet,
          and so also to ports that `services.openssh.openFirewall` opens. It does not affect open sessions
          or trusted interfaces. Without sshd there is no limit.
        '';
      };
      connections = mkOption {
        type = types.ints.positive;
        default = 10;
        description = "New connections that one source may open in {option}`nixfleet.firewall.sshRateLimit.per`.";
      };
      per = mkOption {
        type = types.enum [
          "second"
          "minute"
          "hour"
        ];
        default = "minute";
        description = "The unit of time of {option}`nixfleet.firewall.sshRateLimit.connections`.";
      };
      burst = mkOption {
        type = types.ints.positive;
        default = 10;
        description = "New connections that a source may open at once after it opened none for a while.";
      };
      exempt = mkOption {
        type = types.listOf types.singleLineStr;
        default = [ ];
        example = [
          "10.0.0.0/8"
          "fd00::/8"
        ];
        description = "Addresses and networks that are not limited, for example a bastion or a CI runner.";
      };
    };

    logDropped = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Whether to log incoming packets that no rule accepted (`nixfleet drop: ` in the kernel's log). It
          replaces the firewall's own {option}`networking.firewall.logRefusedConnections`, which has no
          limit.
        '';
      };
      perMinute = mkOption {
        type = types.ints.positive;
        default = 30;
        description = "Most lines per minute in the drop log; further packets are dropped without a log line.";
      };
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = config.networking.firewall.enable;
        message = "nixfleet.firewall.enable is true but networking.firewall.enable is false, so nothing is filtered. Remove one of the two.";
      }
      {
        assertion = config.networking.nftables.enable;
        message = "nixfleet.firewall needs networking.nftables.enable = true. Remove the line that sets it to false, or set nixfleet.firewall.enable = false.";
      }
    ];

    networking.firewall = {
      enable = lib.mkDefault true;
      logRefusedConnections = lib.mkDefault (!cfg.logDropped.enable);
      # Last in the chain of accepting rules: packets that reach it are dropped.
      extraInputRules = lib.mkIf cfg.logDropped.enable (
        lib.mkOrder 2000 ''
          limit rate ${toString cfg.logDropped.perMinute}/minute burst ${toString cfg.logDropped.perMinute} packets log level info prefix "nixfleet drop: "
        ''
      );
    };

    networking.nftables.enable = lib.mkDefault true;

    # A table of its own, before nixos-fw: nixos-fw accepts packets to open ports before any extra rule.
    networking.nftables.tables.nixfleet-ssh = lib.mkIf limited {
      family = "inet";
      content = ''
        set sources4 {
          type ipv4_addr
          size 65535
          flags dynamic, timeout
          timeout 1h
        }

        set sources6 {
          type ipv6_addr
          size 65535
          flags dynamic, timeout
          timeout 1h
        }

        chain over-limit {
          limit rate 10/minute burst 10 packets log level info prefix "nixfleet ssh limit: "
          counter drop
        }

        chain new-connection {
          ${exemptRule "ip" exempt4}
          ${exemptRule "ip6" exempt6}
          update @sources4 { ip saddr ${over} } jump over-limit
          update @sources6 { ip6 saddr & ffff:ffff:ffff:ffff:: ${over} } jump over-limit
        }

        chain input {
          type filter hook input priority filter - 10; policy accept;

          iifname ${set (map (name: "\"${name}\"") trusted)} accept
          tcp dport ${set (map toString config.services.openssh.ports)} ct state new jump new-connection
        }
      '';
    };
  };
}
