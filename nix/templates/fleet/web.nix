# SPDX-License-Identifier: MIT
# What web servers have. A new system that does not serve the page is taken back.
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
