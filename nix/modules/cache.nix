# SPDX-License-Identifier: MIT
# A binary cache that this host substitutes from, on NixOS and nix-darwin. Nix's other settings do
# not change.
{ config, lib, ... }:
let
  cfg = config.services.nixfleet-cache;
  # Where another installer owns Nix, as on many Macs, nix.settings is written nowhere.
  isManaged = config.nix.enable or true;
  substituter =
    toString cfg.url
    + lib.optionalString (cfg.priority != null) (
      (if lib.hasInfix "?" (toString cfg.url) then "&" else "?") + "priority=${toString cfg.priority}"
    );
in
{
  options.services.nixfleet-cache = {
    enable = lib.mkEnableOption "substitution from the fleet's binary cache";

    url = lib.mkOption {
      type = lib.types.nullOr (lib.types.strMatching "(https?|s3|ssh|ssh-ng|file)://[^ ]+");
      default = null;
      example = "https://cache.example.org";
      description = "The cache's address.";
    };

    publicKey = lib.mkOption {
      type = lib.types.nullOr (lib.types.strMatching "[^ :]+:[A-Za-z0-9+/]+=*");
      default = null;
      example = "cache.example.org-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
      description = "The public key of the cache; Nix refuses paths that this key did not sign.";
    };

    priority = lib.mkOption {
      type = lib.types.nullOr lib.types.ints.unsigned;
      default = null;
      example = 30;
      description = "Nix asks caches with lower numbers first; cache.nixos.org has 40. null: the priority that the cache states.";
    };
  };

  config = lib.mkIf cfg.enable {
    nix.settings = lib.mkIf isManaged {
      extra-substituters = lib.optional (cfg.url != null) substituter;
      extra-trusted-public-keys = lib.optional (cfg.publicKey != null) cfg.publicKey;
    };

    warnings = lib.optional (!isManaged && cfg.url != null && cfg.publicKey != null) ''
      services.nixfleet-cache has no effect, because nix.enable is false: another program writes Nix's settings. Add these lines to them, with Determinate's Nix in /etc/nix/nix.custom.conf:
      extra-substituters = ${substituter}
      extra-trusted-public-keys = ${cfg.publicKey}
    '';

    assertions = [
      {
        assertion = cfg.url != null;
        message = "services.nixfleet-cache.url must be set to the binary cache's address, for example https://cache.example.org.";
      }
      {
        assertion = cfg.publicKey != null;
        message = "services.nixfleet-cache.publicKey must be set to the cache's public key; `nix key convert-secret-to-public` prints it from the secret key.";
      }
    ];
  };
}
