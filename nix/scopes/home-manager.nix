# SPDX-License-Identifier: MIT
# Scope home-manager (NixOS): homes are built and switched with the system.
{
  config,
  lib,
  options,
  ...
}:
let
  cfg = config.nixfleet.home-manager;
  inherit (import ../lib/priorities.nix lib) suggest;
  others = lib.subtractLists (
    lib.optional (cfg.user != null) cfg.user
    ++ lib.attrNames (
      lib.filterAttrs (_: user: user.homeManager != null) (config.nixfleet.operators.users or { })
    )
  ) (lib.attrNames config.home-manager.users);
in
{
  _class = "nixos";

  imports = [ ./options/home-manager.nix ];

  options.nixfleet.home-manager.stateVersion = lib.mkOption {
    default = config.system.stateVersion;
    defaultText = lib.literalExpression "config.system.stateVersion";
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = [
          {
            assertion = options ? home-manager;
            message = "nixfleet.home-manager.enable needs home-manager. Add home-manager.nixosModules.home-manager to the host's modules.";
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
