# SPDX-License-Identifier: MIT
# The role provides the boot loader, DHCP, SSH with keys only, the firewall and the tools.
{ config, ... }:
let
  # Put your public key here. A build with the placeholder fails.
  key = "REPLACE-WITH-YOUR-SSH-PUBLIC-KEY";
in
{
  nixfleet.operators = {
    users.${config.hostSpec.userName} = {
      isAdmin = true;
      sshKeys = [ key ];
    };
    rootSshKeys = [ key ];
  };

  # The agent is enabled once `nixfleet trust init` has written trust/root.json.
  services.nixfleet-agent = {
    enable = builtins.pathExists ./trust/root.json;
    controlPlane.url = "https://fleet.example.org:8444";
    trust.rootFile = ./trust/root.json;
    identity.tokenFile = "/var/lib/nixfleet/token"; # the line that `nixfleet machine token` prints
  };
}
