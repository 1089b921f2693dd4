# SPDX-License-Identifier: MIT
# The binary cache. It creates its signing key at its first start.
{ config, ... }:
{
  services.nixfleet-cache-server = {
    enable = true;
    address = "0.0.0.0";
    openFirewall = true;
    signingKeyFile = "/var/lib/cache-key/secret";
  };

  systemd.services.cache-key = {
    description = "Make the cache's signing key";
    requiredBy = [ "harmonia.service" ];
    before = [ "harmonia.service" ];
    unitConfig.ConditionPathExists = "!/var/lib/cache-key/secret";
    serviceConfig = {
      Type = "oneshot";
      StateDirectory = "cache-key";
      StateDirectoryMode = "0700";
    };
    path = [ config.nix.package ];
    script = "nix-store --generate-binary-cache-key cache-01 /var/lib/cache-key/secret /var/lib/cache-key/public";
  };

  services.nixfleet-agent = {
    tags = [ "cache" ];
    healthChecks.systemd.harmonia = { };
  };
}
