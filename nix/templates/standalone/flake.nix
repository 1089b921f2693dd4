{
  # SPDX-License-Identifier: MIT
  description = "One machine";

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
    { self, nixfleet, ... }@inputs:
    {
      nixosConfigurations.myhost = nixfleet.lib.mkHost {
        hostName = "myhost";
        platform = "x86_64-linux";
        stateVersion = "26.05";
        specialArgs = { inherit self inputs; };

        # Edit these.
        hostSpec = {
          userName = "operator";
          timeZone = "Europe/Paris";
          locale = "en_US.UTF-8";
          keyboardLayout = "us";
        };

        modules = [
          nixfleet.scopes.roles.server
          ./configuration.nix
          ./disk-config.nix
          ./hardware-configuration.nix
        ];
      };
    };
}
