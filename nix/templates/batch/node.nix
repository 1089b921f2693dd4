# SPDX-License-Identifier: MIT
# What all machines are, beside what the role brings: boot loader, DHCP, SSH with keys only, firewall.
{
  # Put your public key here; building with this one in place is an error.
  nixfleet.operators.rootSshKeys = [ "REPLACE-WITH-YOUR-SSH-PUBLIC-KEY" ];

  # The machines join a fleet when `nixfleet trust init` has written trust/root.json.
  services.nixfleet-agent = {
    enable = builtins.pathExists ./trust/root.json;
    controlPlane.url = "https://fleet.example.org:8444";
    trust.rootFile = ./trust/root.json;
    identity.tokenFile = "/var/lib/nixfleet/token";
    tags = [ "node" ];
  };
}
