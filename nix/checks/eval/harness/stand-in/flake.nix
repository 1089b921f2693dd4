{
  # SPDX-License-Identifier: MIT
  description = "Stand-in for Nixpkgs: its real lib and NixOS modules, packages for evaluation only";

  outputs =
    { self }:
    let
      plain = import ./lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      lib = plain // {
        nixos = import ./nixos/lib { lib = plain; };
        nixosSystem =
          args:
          import ./nixos/lib/eval-config.nix (
            {
              inherit lib;
              system = null;
            }
            // args
            // {
              modules = args.modules ++ [ ./stand-in/nixos-defaults.nix ];
            }
          );
      };
    in
    {
      inherit lib;
      legacyPackages = plain.genAttrs systems (system: import ./. { inherit system; });
      nixosModules.notDetected = ./nixos/modules/installer/scan/not-detected.nix;
    };
}
