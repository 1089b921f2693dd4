# SPDX-License-Identifier: MIT
# The fleet's binary cache: NixOS's harmonia, which serves this host's own store, with a signing key,
# optionally TLS by nginx, and a garbage collection that keeps recent generations.
{
  config,
  options,
  lib,
  ...
}:
let
  cfg = config.services.nixfleet-cache-server;

  # Its options were renamed twice: signKeyPath, then signKeyPaths, then all of them below cache.
  upstream = options.services.harmonia;
  keys =
    module:
    if module ? signKeyPaths then
      { signKeyPaths = [ cfg.signingKeyFile ]; }
    else
      { signKeyPath = cfg.signingKeyFile; };
  harmonia = module: {
    enable = true;
    settings = {
      bind = lib.mkDefault "${if proxied then "127.0.0.1" else cfg.address}:${toString cfg.port}";
      priority = lib.mkDefault cfg.priority;
    };
  }
  // lib.optionalAttrs (cfg.signingKeyFile != null) (keys module);

  proxied = cfg.virtualHost != null;
in
{
  _class = "nixos";

  options.services.nixfleet-cache-server = {
    enable = lib.mkEnableOption "a binary cache that serves this host's store to the fleet";

    signingKeyFile = lib.mkOption {
      type = lib.types.nullOr (import ./secret-path.nix { inherit lib; });
      default = null;
      example = "/run/secrets/cache-key";
      description = ''
        File with the secret key that signs the served paths; the service reads it as a credential.
        `nix key generate-secret --key-name cache.example.org-1` creates a key.
      '';
    };

    address = lib.mkOption {
      type = lib.types.str;
      default = "127.0.0.1";
      example = "[::]";
      description = "Address on which the cache listens, without TLS. With `virtualHost` it is always loopback.";
    };

    port = lib.mkOption {
      type = lib.types.port;
      default = 5000;
      description = "Port on which the cache listens.";
    };

    priority = lib.mkOption {
      type = lib.types.ints.unsigned;
      default = 30;
      description = "The priority that the cache states: Nix asks caches with lower numbers first; cache.nixos.org has 40.";
    };

    virtualHost = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      example = "cache.example.org";
      description = ''
        Name under which nginx serves the cache with TLS and a certificate from ACME; to use your own
        certificate, set `services.nginx.virtualHosts.<name>`. null: no reverse proxy.
      '';
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether to open the port of the cache, or with `virtualHost` the ports of nginx.";
    };

    gc = {
      enable = lib.mkEnableOption "garbage collection on the cache, which by default keeps everything";
      keepDays = lib.mkOption {
        type = lib.types.ints.positive;
        default = 60;
        description = "Days for which generations are kept. Older ones are deleted before garbage is collected.";
      };
      dates = lib.mkOption {
        type = lib.types.str;
        default = "weekly";
        example = "Sun 03:00";
        description = "When garbage is collected, in the format of systemd.time(7).";
      };
    };
  };

  config = lib.mkIf cfg.enable {
    services.harmonia =
      if upstream ? cache then { cache = harmonia upstream.cache; } else harmonia upstream;

    services.nginx = lib.mkIf proxied {
      enable = true;
      recommendedTlsSettings = lib.mkDefault true;
      virtualHosts.${cfg.virtualHost} = {
        enableACME = lib.mkDefault true;
        forceSSL = lib.mkDefault true;
        locations."/" = {
          proxyPass = "http://127.0.0.1:${toString cfg.port}";
          extraConfig = ''
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_read_timeout 300s;
          '';
        };
      };
    };

    networking.firewall.allowedTCPPorts = lib.optionals cfg.openFirewall (
      if proxied then
        [
          80
          443
        ]
      else
        [ cfg.port ]
    );

    nix.gc = lib.mkIf cfg.gc.enable {
      automatic = lib.mkDefault true;
      dates = lib.mkDefault cfg.gc.dates;
      options = lib.mkDefault "--delete-older-than ${toString cfg.gc.keepDays}d";
    };

    assertions = [
      {
        assertion = cfg.signingKeyFile != null;
        message = "services.nixfleet-cache-server.signingKeyFile must be set: hosts refuse paths that are not signed. Make a key with `nix key generate-secret --key-name NAME-1`.";
      }
      {
        assertion = cfg.openFirewall && !proxied -> cfg.address != "127.0.0.1";
        message = "services.nixfleet-cache-server.openFirewall opens port ${toString cfg.port}, but the cache listens on 127.0.0.1: set address, or virtualHost for TLS.";
      }
    ];
  };
}
