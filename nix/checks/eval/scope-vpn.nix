# SPDX-License-Identifier: MIT
# Scope vpn: WireGuard profiles, their keys, ports and routes.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) fires host;
  scopes = import (root + "/nix/scopes");

  with' =
    profiles:
    host [
      scopes.nixosModules.vpn
      {
        nixfleet.vpn = {
          enable = true;
          inherit profiles;
        };
      }
    ];
  hub = {
    publicKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
    presharedKeyFile = "/run/secrets/psk";
    endpoint = "vpn.example.org:51820";
    allowedIPs = [ "10.8.0.0/24" ];
    persistentKeepalive = 25;
  };
  office = {
    address = [ "10.8.0.2/24" ];
    privateKeyFile = "/run/secrets/wg0";
    peers = [ hub ];
  };
  good = with' {
    wg0 = office // {
      listenPort = 51820;
      openFirewall = true;
    };
    wg1 = office // {
      address = [ "10.9.0.2/24" ];
      autostart = false;
    };
  };
  inherit (good.config) networking;
  interface = networking.wg-quick.interfaces.wg0;
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.vpn ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "a profile is an interface with its peers" =
    interface.address == [ "10.8.0.2/24" ]
    && interface.privateKeyFile == "/run/secrets/wg0"
    && (lib.head interface.peers).presharedKeyFile == "/run/secrets/psk"
    && (lib.head interface.peers).persistentKeepalive == 25
    && (lib.head interface.peers).endpoint == "vpn.example.org:51820";
  "it starts at boot by default" =
    good.config.systemd.services.wg-quick-wg0.wantedBy == [ "multi-user.target" ]
    && good.config.systemd.services.wg-quick-wg1.wantedBy == [ ];
  "a table and hooks are in the unit" =
    let
      routed = with' {
        wg0 = office // {
          table = "off";
          preUp = "echo pre-up";
          postUp = "ip rule add from 10.8.0.2 table 42";
          preDown = "echo pre-down";
          postDown = "ip rule del from 10.8.0.2 table 42";
        };
      };
      wg0 = routed.config.networking.wg-quick.interfaces.wg0;
    in
    {
      expr = {
        inherit (routed) failedAssertions;
        evaluates = lib.hasSuffix ".drv" routed.toplevel;
        inherit (wg0) table;
        hooks = map lib.trim [
          wg0.preUp
          wg0.postUp
          wg0.preDown
          wg0.postDown
        ];
        otherwise = interface.table;
      };
      expected = {
        failedAssertions = [ ];
        evaluates = true;
        table = "off";
        hooks = [
          "echo pre-up"
          "ip rule add from 10.8.0.2 table 42"
          "echo pre-down"
          "ip rule del from 10.8.0.2 table 42"
        ];
        otherwise = null;
      };
    };
  "only the port that is set is open" =
    networking.firewall.allowedUDPPorts == [ 51820 ] && (with' { wg0 = office; }).config.networking.firewall.allowedUDPPorts == [ ];
  "replies are let in when everything is routed to a peer" =
    (with' { wg0 = office // { peers = [ (hub // { allowedIPs = [ "0.0.0.0/0" ]; }) ]; }; }).config.networking.firewall.checkReversePath
    == "loose"
    && networking.firewall.checkReversePath != "loose";
  "fires: openFirewall without a port" = fires "nixfleet.vpn.profiles.wg0.openFirewall needs listenPort" (
    with' { wg0 = office // { openFirewall = true; }; }
  );
  "fires: two peers with one network" = fires "10.8.0.0/24 is in allowedIPs of two peers" (
    with' {
      wg0 = office // {
        peers = [
          hub
          (hub // { publicKey = "OjFVZ8dYHDpJmVSQiXvJjvxRU6A3fPXlsvDyZMe9hxE="; })
        ];
      };
    }
  );
  "fires: a key in the store" = fires "nixfleet.vpn.profiles.wg0: a key is in the Nix store" (
    with' { wg0 = office // { peers = [ (hub // { presharedKeyFile = "${builtins.storeDir}/abc-psk"; }) ]; }; }
  );
  "fires: an invalid interface name" = fires "a network interface cannot have this name" (
    with' { "a-name-of-18-bytes" = office; }
  );
}
