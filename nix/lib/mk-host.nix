# SPDX-License-Identifier: MIT
# mkHost: one host of a fleet, as nixosSystem or darwinSystem return it. It adds the host's name,
# its platform, and modules that change nothing until they are enabled. Importing those modules has
# the same effect.
{ defaultNixpkgs }:
{
  # Host name, which is also the machine id.
  hostName,
  # x86_64-linux, aarch64-linux, aarch64-darwin or x86_64-darwin.
  platform,
  # system.stateVersion: a release for NixOS, a number for nix-darwin.
  stateVersion ? null,
  modules ? [ ],
  # Passed through unchanged: give the fleet's own { inherit self inputs; }.
  specialArgs ? { },
  # A guest under QEMU: virtio drivers and a serial console.
  isVm ? false,
  # Values of the hostSpec options.
  hostSpec ? { },
  nixpkgs ? specialArgs.inputs.nixpkgs or defaultNixpkgs,
  darwin ? specialArgs.inputs.nix-darwin or specialArgs.inputs.darwin or null,
}:
let
  inherit (nixpkgs) lib;

  systems = {
    x86_64-linux = nixos;
    aarch64-linux = nixos;
    aarch64-darwin = macos;
    x86_64-darwin = macos;
  };

  inherit (import ./priorities.nix lib) chosen;
  host = {
    _file = "mkHost ${hostName}";
    networking.hostName = chosen hostName;
    nixpkgs.hostPlatform = chosen platform;
    inherit hostSpec;
  }
  // lib.optionalAttrs (stateVersion != null) {
    system.stateVersion = chosen stateVersion;
  };

  nixos = nixpkgs.lib.nixosSystem {
    inherit specialArgs;
    modules = [
      host
      ../modules/nixos.nix
    ]
    ++ lib.optional isVm ../modules/core/vm.nix
    ++ modules;
  };

  macos =
    if darwin == null then
      throw "mkHost ${hostName}: ${platform} needs nix-darwin; add it to the flake's inputs and give specialArgs = { inherit inputs; }, or darwin"
    else if isVm then
      throw "mkHost ${hostName}: isVm is for NixOS guests; remove it for ${platform}"
    else
      darwin.lib.darwinSystem {
        inherit specialArgs;
        modules = [
          host
          ../modules/darwin.nix
        ]
        ++ modules;
      };
in
systems.${platform}
  or (throw "mkHost ${hostName}: unknown platform ${builtins.toJSON platform}; supported are ${lib.concatStringsSep ", " (lib.attrNames systems)}")
