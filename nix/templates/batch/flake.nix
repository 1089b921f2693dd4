{
  # SPDX-License-Identifier: MIT
  description = "Many identical machines";

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
      # Edit this. Each name is a machine; node.nix holds what they share.
      names = [
        "node-01"
        "node-02"
        "node-03"
      ];
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
            nixfleet.scopes.roles.server
            ./node.nix
            ./disk-config.nix
            ./hardware-configuration.nix
          ];
        }
      );
    };
}
