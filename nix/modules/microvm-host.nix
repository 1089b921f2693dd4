# SPDX-License-Identifier: MIT
# A host for microvm.nix guests: a bridge with DHCP and NAT that the guests' tap interfaces join.
# microvm.vms declares the guests themselves. Not part of nixosModules.default.
{
  config,
  options,
  lib,
  ...
}:
let
  cfg = config.services.nixfleet-microvm-host;
in
{
  _class = "nixos";

  options.services.nixfleet-microvm-host = {
    enable = lib.mkEnableOption "a bridge with DHCP and NAT for microvm.nix guests";

    bridge = lib.mkOption {
      type = lib.types.strMatching "[a-z0-9-]{1,15}";
      default = "microbr";
      description = "Name of the bridge.";
    };

    address = lib.mkOption {
      type = lib.types.strMatching "[0-9.]+/[0-9]+";
      default = "10.83.0.1/24";
      description = "The host's own address on the bridge, with the prefix length of the guests' network.";
    };

    tapPattern = lib.mkOption {
      type = lib.types.strMatching "[a-z0-9-]+\\*?";
      default = "vm-*";
      description = "Pattern for the names of the tap interfaces that join the bridge: `microvm.interfaces.*.id` of the guests.";
    };

    dhcp.enable = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = "Whether guests get addresses by DHCP.";
    };

    nat = {
      enable = lib.mkOption {
        type = lib.types.bool;
        default = true;
        description = "Whether guests reach other networks by NAT behind the host's address.";
      };
      externalInterface = lib.mkOption {
        type = lib.types.nullOr lib.types.str;
        default = null;
        example = "enp1s0";
        description = "Interface on which NAT is applied; null: any.";
      };
    };
  };

  config = lib.mkIf cfg.enable {
    systemd.network = {
      enable = true;
      # Something else may manage the host's other interfaces, and networkd would wait for them.
      wait-online.enable = lib.mkDefault config.networking.useNetworkd;
      netdevs."10-nixfleet-microvm".netdevConfig = {
        Kind = "bridge";
        Name = cfg.bridge;
      };
      networks."10-nixfleet-microvm" = {
        matchConfig.Name = cfg.bridge;
        address = [ cfg.address ];
        networkConfig = {
          ConfigureWithoutCarrier = true;
          DHCPServer = cfg.dhcp.enable;
        };
        linkConfig.RequiredForOnline = "no";
      };
      networks."11-nixfleet-microvm-guests" = {
        matchConfig.Name = cfg.tapPattern;
        networkConfig.Bridge = cfg.bridge;
        linkConfig.RequiredForOnline = "no";
      };
    };

    networking = {
      dhcpcd.denyInterfaces = [
        cfg.bridge
        cfg.tapPattern
      ];
      firewall.interfaces.${cfg.bridge}.allowedUDPPorts = lib.optional cfg.dhcp.enable 67;
      nat = lib.mkIf cfg.nat.enable {
        enable = lib.mkDefault true;
        internalInterfaces = [ cfg.bridge ];
        externalInterface = lib.mkIf (cfg.nat.externalInterface != null) (
          lib.mkDefault cfg.nat.externalInterface
        );
      };
    };

    assertions = [
      {
        assertion = options ? microvm.vms;
        message = "services.nixfleet-microvm-host needs microvm.nix: add it to the flake's inputs and inputs.microvm.nixosModules.host to this host's modules.";
      }
    ];
  };
}
