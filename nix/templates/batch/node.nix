# SPDX-License-Identifier: MIT
# What all machines share, besides the role's DHCP, SSH with keys only, and firewall.
{
  # Put your public key here. A build with the placeholder fails.
  nixfleet.operators.rootSshKeys = [ "REPLACE-WITH-YOUR-SSH-PUBLIC-KEY" ];

  # The agent is enabled once `nixfleet trust init` has written trust/root.json.
  services.nixfleet-agent = {
    enable = builtins.pathExists ./trust/root.json;
    controlPlane.url = "https://fleet.example.org:8444";
    trust.rootFile = ./trust/root.json;
    identity.tokenFile = "/var/lib/nixfleet/token"; # the line that `nixfleet machine token` prints
    tags = [ "node" ];
  };
}
