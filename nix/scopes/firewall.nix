# SPDX-License-Identifier: MIT
# Scope firewall (NixOS): a limit on new SSH connections per source, and a rate-limited drop log, beside the
# host's own firewall, whether that is made of nftables or of iptables.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.firewall;
  limit = cfg.sshRateLimit;
  inherit (import ../lib/priorities.nix lib) suggest suggestSettings;
  sshd = config.services.openssh;
  inherit (config.networking) firewall nftables;
  # NixOS 25.11 and later can have firewalld make the firewall; it takes neither rules nor commands of NixOS.
  isOurs = firewall.backend or null != "firewalld";
  limited = limit.enable && sshd.enable && firewall.enable;
  ports = lib.unique (
    sshd.ports
    ++ map (address: address.port) (
      lib.filter (address: address.port != null) sshd.listenAddresses
    )
  );

  rules = import ./firewall/rules.nix {
    inherit lib limit ports;
    trusted = lib.unique ([ "lo" ] ++ firewall.trustedInterfaces);
  };
  # Declared before it is deleted, so that there is one to delete.
  table = pkgs.writeText "nixfleet-ssh.nft" ''
    table inet nixfleet-ssh
    delete table inet nixfleet-ssh
    table inet nixfleet-ssh {
      ${rules}
    }
  '';
in
{
  _class = "nixos";

  options.nixfleet.firewall = {
    enable = lib.mkEnableOption "a limit on new SSH connections and on the lines of the drop log, in addition to the rules of the NixOS firewall";

    sshRateLimit = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Whether to limit how many new connections one source may open to sshd's ports. The limit counts
          IPv4 addresses and IPv6 /64 networks. It applies before every rule that would accept the packet,
          and so also to ports that `services.openssh.openFirewall` opens. It does not affect open sessions
          or trusted interfaces. Without sshd, or without {option}`networking.firewall.enable`, there is no
          limit. The limit is a table of nftables, also on a host whose firewall uses iptables.
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
          limit. It has no effect where firewalld is the firewall.
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
    warnings = lib.optional (!firewall.enable) ''
      nixfleet.firewall: networking.firewall.enable is false, so nothing is filtered or limited. Remove that line, or set nixfleet.firewall.enable = false.
    '';

    networking.firewall = lib.mkIf (cfg.logDropped.enable && isOurs) {
      logRefusedConnections = suggest false;
      # Last in the chain of accepting rules: packets that reach it are dropped.
      extraInputRules = lib.mkOrder 2000 ''
        limit rate ${toString cfg.logDropped.perMinute}/minute burst ${toString cfg.logDropped.perMinute} packets log level info prefix "nixfleet drop: "
      '';
      extraCommands = lib.mkIf (firewall.enable && !nftables.enable) (
        lib.mkOrder 2000 ''
          ip46tables -A nixos-fw -m limit --limit ${toString cfg.logDropped.perMinute}/minute --limit-burst ${toString cfg.logDropped.perMinute} -j LOG --log-level info --log-prefix "nixfleet drop: "
        ''
      );
    };

    # A table of its own, before nixos-fw: nixos-fw accepts packets to open ports before any extra rule.
    networking.nftables.tables.nixfleet-ssh = lib.mkIf limited {
      family = suggest "inet";
      content = rules;
    };

    # The same table where NixOS loads none. Its hook comes before the rules of iptables, too.
    systemd.services.nixfleet-ssh-limit = lib.mkIf (limited && !nftables.enable) {
      description = suggest "Limit of new SSH connections";
      wantedBy = [ "sysinit.target" ];
      wants = [ "network-pre.target" ];
      before = [
        "network-pre.target"
        "shutdown.target"
      ];
      conflicts = [ "shutdown.target" ];
      unitConfig.DefaultDependencies = suggest false;
      serviceConfig = suggestSettings {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${pkgs.nftables}/bin/nft --file ${table}";
        ExecStop = "${pkgs.nftables}/bin/nft delete table inet nixfleet-ssh";
      };
    };
  };
}
