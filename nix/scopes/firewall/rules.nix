# SPDX-License-Identifier: MIT
# Part of scope firewall: the table of nftables that limits new SSH connections per source. Not a module.
{
  lib,
  # The option nixfleet.firewall.sshRateLimit.
  limit,
  # Ports of sshd.
  ports,
  # Interfaces that are not limited.
  trusted,
}:
let
  isIPv6 = lib.hasInfix ":";
  exempt4 = lib.filter (net: !isIPv6 net) limit.exempt;
  exempt6 = lib.filter isIPv6 limit.exempt;
  set = elements: "{ ${lib.concatStringsSep ", " elements} }";
  exemptRule = family: nets: lib.optionalString (nets != [ ]) "${family} saddr ${set nets} accept";

  # `over` matches what exceeds the rate: those packets are logged and dropped.
  over = "limit rate over ${toString limit.connections}/${limit.per} burst ${toString limit.burst} packets";
in
''
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
    tcp dport ${set (map toString ports)} ct state new jump new-connection
  }
''
