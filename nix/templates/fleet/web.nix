# SPDX-License-Identifier: MIT
# The web servers. A machine on which the new system does not serve the page rolls back.
{
  services.nginx = {
    enable = true;
    virtualHosts.default = {
      default = true;
      locations."/health".return = "200 ok";
    };
  };
  networking.firewall.allowedTCPPorts = [ 80 ];

  services.nixfleet-agent = {
    tags = [ "web" ];
    healthChecks.http.front.url = "http://127.0.0.1/health";
  };
}
