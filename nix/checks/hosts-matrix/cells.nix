# SPDX-License-Identifier: MIT
# The cells of a row: each scope alone and each role alone, as a module that a host adds. `mayRefuse` has parts
# of the messages of assertions that name a danger: by these, and no others, a host may be refused.
{
  lib,
  inputs,
  scopes,
}:
let
  # What a scope needs in addition to being enabled, so that it does something.
  settings = {
    backup.jobs.data = {
      paths = [ "/home" ];
      repository = "sftp:backup@nas:/backups";
      passwordFile = "/run/secrets/backup";
    };
    generation-label.revision = "0123456789abcdef0123456789abcdef01234567";
    o11y = {
      metrics.url = "https://metrics.example.org/api/v1/write";
      journal.url = "https://logs.example.org:19532";
    };
    vpn.profiles.wg7 = {
      address = [ "10.8.0.2/24" ];
      privateKeyFile = "/run/secrets/wg7";
    };
  };
  noLogin = [ "no one could log in to this host" ];
  dangers = {
    # The data of a host that keeps nothing would be lost at the next boot.
    impermanence = [
      "is on no file system that is mounted at boot"
      "the btrfs root must be mounted from a device below /dev and a subvolume"
    ];
    operators = noLogin;
    role-server = noLogin;
    role-workstation = noLogin;
    role-endpoint = noLogin;
    role-microvm-guest = noLogin;
  };
  # The module of another flake that a scope works with, unless the host has it.
  partners = class: {
    home-manager = inputs.home-manager."${class}Modules".home-manager;
    impermanence = inputs.impermanence.nixosModules.impermanence;
  };

  cell = class: has: name: module: {
    mayRefuse = dangers.${name} or [ ];
    partners = lib.optional (partners class ? ${name} && !lib.elem name has) (partners class).${name};
    module = {
      imports = [ module ];
      # A role is on when it is imported. A disk template replaces the disks: choosing one is a decision.
      config = lib.optionalAttrs (!lib.hasPrefix "role-" name && name != "disko") {
        nixfleet.${name} = {
          enable = true;
        }
        // settings.${name} or { };
      };
    };
  };
in
{
  # Cells by name for a host of CLASS that already HAS the modules of these flakes.
  nixos = has: lib.mapAttrs (cell "nixos" has) scopes.nixosModules;
  darwin =
    has: lib.mapAttrs (cell "darwin" has) scopes.darwinModules;
}
