# SPDX-License-Identifier: MIT
# The control plane. It creates its CA, its certificate and the bootstrap secret at its first start.
{ inputs, pkgs, ... }:
{
  services.nixfleet-control-plane = {
    enable = builtins.pathExists ../trust/root.json;
    trust.rootFile = ../trust/root.json;
    tls.names = [
      "cp-01"
      "localhost"
      "127.0.0.1"
    ];
    listen.metrics = "0.0.0.0:9443";
    allowPlainMetrics = true; # the firewall lets only the other machines reach it
    openFirewall = true;
  };
  networking.firewall.interfaces.eth1.allowedTCPPorts = [ 9443 ];

  environment.systemPackages = [
    inputs.nixfleet.packages.${pkgs.stdenv.hostPlatform.system}.nixfleet
  ];

  services.nixfleet-agent = {
    tags = [ "control-plane" ];
    healthChecks.http.ready.url = "http://127.0.0.1:9443/readyz";
  };
}
