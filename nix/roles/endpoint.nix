# SPDX-License-Identifier: MIT
# Role endpoint: a machine with one purpose, such as a kiosk or a gateway: as little as can be managed.
# Importing a role is taking it; every choice is a default that the host can override.
{
  config,
  lib,
  ...
}:
let
  inherit (lib) mkDefault;
in
{
  _class = "nixos";

  imports = [
    ../platforms/nixos-base.nix
    ../scopes/base.nix
    ../scopes/impermanence.nix
    ../scopes/operators.nix
    ../scopes/secrets.nix
  ];

  options.nixfleet.roles.endpoint.enable = lib.mkOption {
    type = lib.types.bool;
    default = true;
    description = "Whether this host is what the role endpoint makes of it. Importing the role is enough; false takes it back.";
  };

  config = lib.mkIf config.nixfleet.roles.endpoint.enable {
    nixfleet = {
      nixos-base.enable = mkDefault true;
      base.enable = mkDefault true;
      operators.enable = mkDefault true;
      secrets.enable = mkDefault true;
      # impermanence is at hand but off: it comes on with a disk template that is made for it.
    };
  };
}
