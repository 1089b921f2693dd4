# SPDX-License-Identifier: MIT
# What all machines are.
{ lib, ... }:
{
  # Put your public key here; building with this one in place is an error.
  nixfleet.operators.rootSshKeys = [ "REPLACE-WITH-YOUR-SSH-PUBLIC-KEY" ];

  services.openssh = {
    enable = true;
    settings.PasswordAuthentication = false;
  };

  networking.useDHCP = lib.mkDefault true;

  boot.loader.systemd-boot.enable = true;
  boot.loader.efi.canTouchEfiVariables = true;

  # The machines join a fleet when `nixfleet trust init` has written trust/root.json.
  services.nixfleet-agent = lib.mkIf (builtins.pathExists ./trust/root.json) {
    enable = true;
    controlPlane.url = "https://fleet.example.org:8444";
    trust.rootFile = ./trust/root.json;
    identity.tokenFile = "/var/lib/nixfleet/token";
    tags = [ "node" ];
  };
}
