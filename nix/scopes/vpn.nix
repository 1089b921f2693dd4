# SPDX-License-Identifier: MIT
# Scope vpn (NixOS): WireGuard networks by profile.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.vpn;
  inherit (import ../lib/priorities.nix lib) chosen suggest;

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

  networksOf = profile: lib.concatMap (peer: peer.allowedIPs) profile.peers;
  twice = list: lib.unique (lib.filter (item: lib.count (other: other == item) list > 1) list);
  secretsOf =
    profile:
    [ profile.privateKeyFile ] ++ map (peer: toString peer.presharedKeyFile) profile.peers;

  checks = name: profile: [
    {
      assertion = profile.openFirewall -> profile.listenPort != null;
      message = "nixfleet.vpn.profiles.${name}.openFirewall needs listenPort. Set one, for example 51820.";
    }
    {
      assertion = twice (networksOf profile) == [ ];
      message = "nixfleet.vpn.profiles.${name}: ${lib.concatStringsSep ", " (twice (networksOf profile))} is in allowedIPs of two peers, and only the last peer would get it. Keep it in one.";
    }
    {
      assertion = !lib.any (lib.hasPrefix "${builtins.storeDir}/") (secretsOf profile);
      message = "nixfleet.vpn.profiles.${name}: a key is in the Nix store, where everyone can read it. Give the path of a file on the machine as a string, for example the path of an agenix or sops-nix secret.";
    }
    {
      assertion = builtins.match "[a-zA-Z0-9_=+.-]{1,15}" name != null;
      message = "nixfleet.vpn.profiles.${name}: a network interface cannot have this name. Use up to 15 letters, digits and _=+.-";
    }
  ];
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

  config = lib.mkIf cfg.enable {
    assertions = lib.concatLists (lib.mapAttrsToList checks cfg.profiles);

    networking.wg-quick.interfaces = lib.mapAttrs (_: profile: {
      inherit (profile) address dns peers;
      autostart = chosen profile.autostart;
      listenPort = chosen profile.listenPort;
      mtu = chosen profile.mtu;
      privateKeyFile = chosen profile.privateKeyFile;
    }) cfg.profiles;

    networking.firewall = {
      allowedUDPPorts = lib.concatMap (
        profile: lib.optional (profile.openFirewall && profile.listenPort != null) profile.listenPort
      ) (lib.attrValues cfg.profiles);
      # If everything is routed to a peer, its encrypted packets arrive on an interface that the route to
      # it does not use.
      checkReversePath = lib.mkIf (lib.any (
        profile: lib.any (net: lib.hasSuffix "/0" net) (networksOf profile)
      ) (lib.attrValues cfg.profiles)) (suggest "loose");
    };
  };
}
