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
  inherit (import ../../lib/priorities.nix lib) suggest;
  others = lib.subtractLists (
    lib.optional (cfg.user != null) cfg.user
    ++ lib.attrNames (
      lib.filterAttrs (_: user: user.homeManager != null) (config.nixfleet.operators.users or { })
    )
  ) (lib.attrNames config.home-manager.users);
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
          # Homes that the host configures already keep their packages where they are.
          useGlobalPkgs = lib.mkIf (others == [ ]) (suggest true);
          useUserPackages = lib.mkIf (others == [ ]) (suggest true);
          backupFileExtension = suggest cfg.backupFileExtension;
          sharedModules =
            cfg.modules
            ++ lib.optional (cfg.stateVersion != null) {
              home.stateVersion = suggest cfg.stateVersion;
            };
          users = lib.mkIf (cfg.user != null) { ${toString cfg.user} = { }; };
        };
      })
    ]
  );
}
