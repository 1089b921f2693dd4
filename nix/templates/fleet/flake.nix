{
  # SPDX-License-Identifier: MIT
  description = "A fleet: a control plane and two web servers";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    nixfleet = {
      url = "github:arcanesys/nixfleet";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    disko = {
      url = "github:nix-community/disko";
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
      # Each folder in hosts/ is a machine.
      names = builtins.attrNames (builtins.readDir ./hosts);
    in
    {
      nixosConfigurations = nixpkgs.lib.genAttrs names (
        hostName:
        nixfleet.lib.mkHost {
          inherit hostName;
          platform = "x86_64-linux";
          stateVersion = "26.05";
          specialArgs = { inherit self inputs; };
          hostSpec.timeZone = "Europe/Paris";
          modules = [
            inputs.disko.nixosModules.disko
            nixfleet.scopes.roles.server
            ./common.nix
            ./operators.nix
            (./hosts + "/${hostName}")
          ];
        }
      );
    };
}
