# SPDX-License-Identifier: MIT
# Role endpoint: a machine with one purpose, such as a kiosk or a gateway: the least that can be managed.
# Importing a role enables it; every choice is a default that the host can override.
{
  config,
  lib,
  ...
}:
let
  inherit (import ../lib/priorities.nix lib) suggest;
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
    description = "Whether to apply the role endpoint to this host. Importing the role is enough; false disables it.";
  };

  config = lib.mkIf config.nixfleet.roles.endpoint.enable {
    nixfleet = {
      nixos-base.enable = suggest true;
      base.enable = suggest true;
      operators.enable = suggest true;
      secrets.enable = suggest true;
      # impermanence is imported but off: a disk template that is made for it enables it.
    };
  };
}
