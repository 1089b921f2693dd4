# SPDX-License-Identifier: MIT
# The role provides DHCP, SSH with keys only, the firewall and the tools; disk-config.nix the boot loader.
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
      # The key is enough for sudo, as it is for root below. Or remove this, and set hashedPasswordFile.
      passwordlessSudo = true;
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
