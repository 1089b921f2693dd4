# SPDX-License-Identifier: MIT
# Scope monitoring: the node exporter, its collectors, and who may reach it.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) fires host;
  scopes = import (root + "/nix/scopes");

  with' =
    monitoring:
    host [
      scopes.nixosModules.monitoring
      {
        nixfleet.monitoring = {
          enable = true;
        } // monitoring;
      }
    ];
  good = with' {
    listenAddress = "10.0.0.5";
    port = 9199;
    openFirewallOn = [ "wg0" ];
  };
  unit = good.config.systemd.units."prometheus-node-exporter.service".text;
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.monitoring ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "the exporter listens on the address that is set" = lib.hasInfix "--web.listen-address 10.0.0.5:9199" unit;
  "failed units can be alerted on" = lib.hasInfix "--collector.systemd" unit;
  "metrics of other scopes are served" =
    lib.hasInfix "--collector.textfile.directory=/var/lib/node-exporter-textfile" unit
    && good.config.systemd.tmpfiles.settings.nixfleet-monitoring."/var/lib/node-exporter-textfile".d.mode == "0755";
  "only the named interface is open" =
    good.config.networking.firewall.interfaces.wg0.allowedTCPPorts == [ 9199 ]
    && good.config.networking.firewall.allowedTCPPorts == [ ];
  "it is open to all only by option" = (with' { openFirewall = true; }).config.services.prometheus.exporters.node.openFirewall;
  "the text files can be off" =
    !(lib.hasInfix "textfile" (with' { textfileDirectory = null; }).config.systemd.units."prometheus-node-exporter.service".text);
  "fires: a relative directory" = fires "nixfleet.monitoring.textfileDirectory must be an absolute path" (
    with' { textfileDirectory = "metrics"; }
  );
}
