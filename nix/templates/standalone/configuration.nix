# SPDX-License-Identifier: MIT
{ config, lib, ... }:
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

  services.openssh = {
    enable = true;
    settings.PasswordAuthentication = false;
  };

  networking.useDHCP = lib.mkDefault true;

  boot.loader.systemd-boot.enable = true;
  boot.loader.efi.canTouchEfiVariables = true;

  # The machine joins a fleet when `nixfleet trust init` has written trust/root.json.
  services.nixfleet-agent = lib.mkIf (builtins.pathExists ./trust/root.json) {
    enable = true;
    controlPlane.url = "https://fleet.example.org:8444";
    trust.rootFile = ./trust/root.json;
    identity.tokenFile = "/var/lib/nixfleet/token";
  };
}
