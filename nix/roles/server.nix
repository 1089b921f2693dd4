# SPDX-License-Identifier: MIT
# Role server: a machine that runs services and has no local user.
# Importing a role enables it; every choice is a default that the host can override.
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
    ../scopes/firewall.nix
    ../scopes/generation-label.nix
    ../scopes/hardware.nix
    ../scopes/impermanence.nix
    ../scopes/monitoring.nix
    ../scopes/o11y.nix
    ../scopes/operators.nix
    ../scopes/secrets.nix
    ../scopes/terminal-compat.nix
  ];

  options.nixfleet.roles.server.enable = lib.mkOption {
    type = lib.types.bool;
    default = true;
    description = "Whether to apply the role server to this host. Importing the role is enough; false disables it.";
  };

  config = lib.mkIf config.nixfleet.roles.server.enable {
    nixfleet = {
      nixos-base.enable = mkDefault true;
      base.enable = mkDefault true;
      firewall.enable = mkDefault true;
      hardware.enable = mkDefault true;
      monitoring.enable = mkDefault true;
      o11y.enable = mkDefault true;
      operators.enable = mkDefault true;
      secrets.enable = mkDefault true;
      terminal-compat.enable = mkDefault true;
      # impermanence and generation-label are imported but off: a disk template that is made for the former
      # enables it; the latter would change every system with every commit.
    };
  };
}
