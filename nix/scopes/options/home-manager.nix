# SPDX-License-Identifier: MIT
# Options of the home-manager scope, the same on NixOS and nix-darwin.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.nixfleet.home-manager = {
    enable = lib.mkEnableOption ''
      homes that are built with the system, from the system's own packages. Needs home-manager's module in
      the host's imports'';

    user = mkOption {
      type = types.nullOr types.str;
      default = config.nixfleet.operators.primaryUser or (config.hostSpec.userName or null);
      defaultText = lib.literalMD "{option}`nixfleet.operators.primaryUser`, else `hostSpec.userName`";
      example = "alice";
      description = "The user whose home is configured even if nothing else configures it. Null: none.";
    };

    modules = mkOption {
      type = types.listOf types.deferredModule;
      default = [ ];
      example = lib.literalExpression "[ ./home/common.nix ]";
      description = "home-manager modules for every home of the host.";
    };

    backupFileExtension = mkOption {
      type = types.nullOr types.str;
      default = "before-home-manager";
      description = ''
        What is appended to the name of an existing file that home-manager would overwrite. Null: such a file
        makes the activation fail.
      '';
    };

    stateVersion = mkOption {
      type = types.nullOr types.str;
      example = "24.11";
      description = "`home.stateVersion` of homes that do not set it. Null: do not set it.";
    };
  };
}
