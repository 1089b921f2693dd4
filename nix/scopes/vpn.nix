# SPDX-License-Identifier: MIT
# Scope vpn (NixOS): WireGuard networks by profile.
{ config, lib, ... }:
let
  cfg = config.nixfleet.vpn;
  inherit (import ../lib/priorities.nix lib) chosen suggest;

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

  imports = [ ./vpn/options.nix ];

  config = lib.mkIf cfg.enable {
    assertions = lib.concatLists (lib.mapAttrsToList checks cfg.profiles);

    networking.wg-quick.interfaces = lib.mapAttrs (_: profile: {
      inherit (profile)
        address
        dns
        peers
        postDown
        postUp
        preDown
        preUp
        ;
      autostart = chosen profile.autostart;
      listenPort = chosen profile.listenPort;
      mtu = chosen profile.mtu;
      privateKeyFile = chosen profile.privateKeyFile;
      table = chosen profile.table;
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
