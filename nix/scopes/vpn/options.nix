# SPDX-License-Identifier: MIT
# Part of scope vpn: its options.
{ lib, ... }:
let
  inherit (lib) mkOption types;

  peer.options = {
    publicKey = mkOption {
      type = types.singleLineStr;
      example = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
      description = "The peer's public key, as `wg pubkey` prints it.";
    };
    presharedKeyFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/run/agenix/wg0-psk";
      description = "File with a key that both peers share. It protects traffic that is recorded now against quantum computers of the future.";
    };
    endpoint = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "vpn.example.org:51820";
      description = "Address at which to reach the peer. Null: the peer must connect first.";
    };
    allowedIPs = mkOption {
      type = types.nonEmptyListOf types.str;
      example = [ "10.8.0.0/24" ];
      description = "Networks that are routed to the peer, and from which it may send. `0.0.0.0/0` and `::/0` route everything.";
    };
    persistentKeepalive = mkOption {
      type = types.nullOr types.ints.u16;
      default = null;
      example = 25;
      description = "Seconds between packets that keep the mapping of a NAT alive. Null: send none.";
    };
  };

  hook =
    time:
    mkOption {
      type = types.lines;
      default = "";
      description = "Shell commands that root runs ${time}.";
    };

  profile.options = {
    address = mkOption {
      type = types.nonEmptyListOf types.str;
      example = [ "10.8.0.2/24" ];
      description = "The host's own addresses in the network.";
    };
    privateKeyFile = mkOption {
      type = types.str;
      example = "/run/agenix/wg0";
      description = "File with the host's private key, as `wg genkey` prints it.";
    };
    listenPort = mkOption {
      type = types.nullOr types.port;
      default = null;
      example = 51820;
      description = "UDP port on which to listen. Null: any free port.";
    };
    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the UDP port in the firewall.";
    };
    dns = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "10.8.0.1" ];
      description = "Name servers to use while the network is up.";
    };
    mtu = mkOption {
      type = types.nullOr types.ints.positive;
      default = null;
      description = "Largest packet, in bytes. Null: derived from the route.";
    };
    table = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "off";
      description = "Routing table for the routes to the peers, by number or name; `off`: no routes. Null: wg-quick chooses.";
    };
    preUp = hook "before the network is up";
    postUp = hook "once the network is up" // {
      example = "ip rule add from 10.8.0.2 table 42";
    };
    preDown = hook "before the network is down";
    postDown = hook "once the network is down";
    autostart = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the network starts at boot. If not, start it with `systemctl start wg-quick-NAME`.";
    };
    peers = mkOption {
      type = types.listOf (types.submodule peer);
      default = [ ];
      description = "The peers of the network.";
    };
  };
in
{
  _class = "nixos";

  options.nixfleet.vpn = {
    enable = lib.mkEnableOption "WireGuard networks";

    profiles = mkOption {
      type = types.attrsOf (types.submodule profile);
      default = { };
      description = "Networks by the name of their interface.";
    };
  };
}
