# SPDX-License-Identifier: MIT
# services.nixfleet-cache and services.nixfleet-cache-server: client and server of the binary cache.
{
  lib,
  harness,
  root,
}:
let
  hostWith =
    modules: config:
    harness.nixos {
      modules = modules ++ [
        {
          boot.loader.grub.device = "/dev/vda";
          fileSystems."/" = {
            device = "/dev/vda1";
            fsType = "ext4";
          };
          system.stateVersion = "24.11";
        }
        config
      ];
    };
  host = hostWith [
    (root + "/nix/modules/cache.nix")
    (root + "/nix/modules/cache-server.nix")
  ];

  # Upstream's module in later releases of NixOS: the same options under other names.
  renamed =
    path: names:
    hostWith [
      (root + "/nix/modules/cache-server.nix")
      {
        disabledModules = [ "services/networking/harmonia.nix" ];
        options.services.harmonia = lib.setAttrByPath path (
          lib.genAttrs ([ "enable" "settings" ] ++ names) (_: lib.mkOption { type = lib.types.anything; })
        );
      }
    ];

  client = host {
    services.nixfleet-cache = {
      enable = true;
      url = "https://cache.example.org";
      publicKey = "cache.example.org-1:QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
      priority = 30;
    };
  };
  server = {
    enable = true;
    signingKeyFile = "/run/secrets/cache-key";
  };
  plain = host { services.nixfleet-cache-server = server; };
  proxied = host {
    security.acme.acceptTerms = true;
    security.acme.defaults.email = "ops@example.org";
    services.nixfleet-cache-server = server // {
      virtualHost = "cache.example.org";
      openFirewall = true;
      gc.enable = true;
    };
  };
  wrong = host {
    services.nixfleet-cache.enable = true;
    services.nixfleet-cache-server = {
      enable = true;
      openFirewall = true;
    };
  };
in
{
  "a client evaluates, and adds to Nix's caches without replacing any" = {
    expr = {
      inherit (client) failedAssertions;
      evaluates = lib.hasSuffix ".drv" client.toplevel;
      inherit (client.config.nix.settings) extra-substituters extra-trusted-public-keys substituters;
    };
    expected = {
      failedAssertions = [ ];
      evaluates = true;
      extra-substituters = [ "https://cache.example.org?priority=30" ];
      extra-trusted-public-keys = [ "cache.example.org-1:QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=" ];
      substituters = [ "https://cache.nixos.org/" ];
    };
  };
  "a Mac can be a client" =
    if harness.darwin == null then
      { skip = "NIX_DARWIN is not set"; }
    else
      {
        expr =
          (harness.darwin {
            modules = [
              (root + "/nix/modules/cache.nix")
              {
                system.stateVersion = 5;
                services.nixfleet-cache = {
                  enable = true;
                  url = "https://cache.example.org";
                  publicKey = "cache.example.org-1:QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
                };
              }
            ];
          }).config.nix.settings.extra-substituters;
        expected = [ "https://cache.example.org" ];
      };
  "a Mac whose Nix belongs to another installer is told what to write" =
    if harness.darwin == null then
      { skip = "NIX_DARWIN is not set"; }
    else
      lib.any
        (lib.hasInfix "nix.custom.conf:\nextra-substituters = https://cache.example.org\nextra-trusted-public-keys = cache.example.org-1:")
        (harness.darwin {
          modules = [
            (root + "/nix/modules/cache.nix")
            {
              system.stateVersion = 5;
              nix.enable = false;
              services.nixfleet-cache = {
                enable = true;
                url = "https://cache.example.org";
                publicKey = "cache.example.org-1:QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
              };
            }
          ];
        }).warnings;
  "a server listens on loopback with its key as a credential" = {
    expr = {
      inherit (plain) failedAssertions;
      evaluates = lib.hasSuffix ".drv" plain.toplevel;
      inherit (plain.config.systemd.services.harmonia.serviceConfig) LoadCredential;
      inherit (plain.config.services.harmonia.settings) bind priority;
      inherit (plain.config.networking.firewall) allowedTCPPorts;
      gc = plain.config.nix.gc.automatic;
    };
    expected = {
      failedAssertions = [ ];
      evaluates = true;
      LoadCredential = [ "sign-key:/run/secrets/cache-key" ];
      bind = "127.0.0.1:5000";
      priority = 30;
      allowedTCPPorts = [ ];
      gc = false;
    };
  };
  "with a virtual host nginx serves it with TLS" = {
    expr = {
      inherit (proxied) failedAssertions;
      evaluates = lib.hasSuffix ".drv" proxied.toplevel;
      inherit (proxied.config.services.nginx.virtualHosts."cache.example.org") forceSSL enableACME;
      inherit (proxied.config.networking.firewall) allowedTCPPorts;
      inherit (proxied.config.nix.gc) options;
    };
    expected = {
      failedAssertions = [ ];
      evaluates = true;
      forceSSL = true;
      enableACME = true;
      allowedTCPPorts = [
        80
        443
      ];
      options = "--delete-older-than 60d";
    };
  };
  "upstream's later option names are used where they exist" = {
    expr = {
      second = (renamed [ ] [ "signKeyPaths" ] { services.nixfleet-cache-server = server; }).config.services.harmonia.signKeyPaths;
      third = (renamed [ "cache" ] [ "signKeyPaths" ] { services.nixfleet-cache-server = server; }).config.services.harmonia.cache;
    };
    expected = {
      second = [ "/run/secrets/cache-key" ];
      third = {
        enable = true;
        settings = {
          bind = "127.0.0.1:5000";
          priority = 30;
        };
        signKeyPaths = [ "/run/secrets/cache-key" ];
      };
    };
  };
  "every mistake is named with its remedy" = {
    expr = map (text: lib.any (lib.hasInfix text) wrong.failedAssertions) [
      "services.nixfleet-cache.url must be set"
      "services.nixfleet-cache.publicKey must be set"
      "services.nixfleet-cache-server.signingKeyFile must be set"
      "but the cache listens on 127.0.0.1"
    ];
    expected = lib.genList (_: true) 4;
  };
}
