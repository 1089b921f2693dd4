# SPDX-License-Identifier: MIT
# A web server. A new system that does not serve the page is taken back.
{ inputs, ... }:
{
  imports = [ (inputs.nixfleet.scopes.disk-templates.ext4 { disk = "/dev/sda"; }) ];

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
