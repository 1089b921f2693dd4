# SPDX-License-Identifier: MIT
# The binary cache: it serves this machine's store, to which `nixfleet release create` copies what was built.
# It makes its signing key at its first start. Without TLS: what it serves is signed, and not secret.
{ config, ... }:
{
  services.nixfleet-cache-server = {
    enable = true;
    address = "[::]";
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
    script = "nix-store --generate-binary-cache-key cp-01.example.org-1 /var/lib/cache-key/secret /var/lib/cache-key/public";
  };

  services.nixfleet-agent.healthChecks.systemd.harmonia = { };
}
