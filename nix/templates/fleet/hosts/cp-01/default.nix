# SPDX-License-Identifier: MIT
# The control plane, and the cache from which the machines fetch.
{ inputs, ... }:
{
  imports = [
    ../../cache.nix
    (inputs.nixfleet.scopes.disk-templates.hybrid { disk = "/dev/sda"; })
  ];

  services.nixfleet-control-plane = {
    enable = builtins.pathExists ../../trust/root.json;
    trust.rootFile = ../../trust/root.json;
    tls.names = [ "cp-01.example.org" ];
    openFirewall = true;
  };

  services.nixfleet-agent = {
    tags = [ "control-plane" ];
    healthChecks.systemd.nixfleet-control-plane = { };
  };
}
