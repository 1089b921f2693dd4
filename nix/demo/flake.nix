{
  # SPDX-License-Identifier: MIT
  description = "Six machines under QEMU that show a whole fleet at work";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    nixfleet = {
      url = "github:arcanesys/nixfleet";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    {
      self,
      nixpkgs,
      nixfleet,
      ...
    }@inputs:
    let
      inherit (nixpkgs) lib;
      # Their addresses on the network between the machines.
      addresses = import ./addresses.nix;
    in
    {
      nixosConfigurations = lib.mapAttrs (
        hostName: _:
        nixfleet.lib.mkHost {
          inherit hostName;
          platform = "x86_64-linux";
          stateVersion = "26.05";
          isVm = true;
          specialArgs = { inherit self inputs addresses; };
          modules = [
            nixfleet.scopes.roles.server
            ./common.nix
            ./operators.nix
            (./hosts + "/${lib.head (lib.splitString "-" hostName)}.nix")
          ];
        }
      ) addresses;

      apps.x86_64-linux = nixfleet.lib.mkVmApps {
        pkgs = nixpkgs.legacyPackages.x86_64-linux;
        hosts = self.nixosConfigurations;
      };
    };
}
