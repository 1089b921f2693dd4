# SPDX-License-Identifier: MIT
# The role brings the boot loader, DHCP, SSH with keys only, the firewall and the tools.
{ config, ... }:
let
  # Put your public key here; building with this one in place is an error.
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

  # The machine joins a fleet when `nixfleet trust init` has written trust/root.json.
  services.nixfleet-agent = {
    enable = builtins.pathExists ./trust/root.json;
    controlPlane.url = "https://fleet.example.org:8444";
    trust.rootFile = ./trust/root.json;
    identity.tokenFile = "/var/lib/nixfleet/token";
  };
}
