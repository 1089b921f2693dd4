# SPDX-License-Identifier: MIT
# Prometheus, which fetches metrics from every machine and from the control plane.
{
  inputs,
  lib,
  addresses,
  ...
}:
{
  imports = [ inputs.nixfleet.scopes.monitoring-server ];

  nixfleet.monitoring-server = {
    enable = true;
    nodes = map (name: "${name}:9100") (lib.attrNames addresses);
    controlPlane.target = "cp-01:9443";
  };

  services.nixfleet-agent = {
    tags = [ "monitoring" ];
    healthChecks.http.prometheus.url = "http://127.0.0.1:9090/-/ready";
  };
}
