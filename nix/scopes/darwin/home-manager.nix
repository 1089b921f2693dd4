# SPDX-License-Identifier: MIT
# Scope home-manager (nix-darwin): homes are built and switched with the system.
{
  config,
  lib,
  options,
  ...
}:
let
  cfg = config.nixfleet.home-manager;
in
{
  _class = "darwin";

  imports = [ ../options/home-manager.nix ];

  options.nixfleet.home-manager.stateVersion = lib.mkOption {
    default = null;
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = [
          {
            assertion = options ? home-manager;
            message = "nixfleet.home-manager.enable needs home-manager. Add home-manager.darwinModules.home-manager to the host's modules.";
          }
        ];
      }
      (lib.optionalAttrs (options ? home-manager) {
        home-manager = {
          useGlobalPkgs = lib.mkDefault true;
          useUserPackages = lib.mkDefault true;
          backupFileExtension = lib.mkDefault cfg.backupFileExtension;
          sharedModules =
            cfg.modules
            ++ lib.optional (cfg.stateVersion != null) {
              home.stateVersion = lib.mkDefault cfg.stateVersion;
            };
          users = lib.mkIf (cfg.user != null) { ${toString cfg.user} = { }; };
        };
      })
    ]
  );
}
