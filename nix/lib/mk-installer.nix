# SPDX-License-Identifier: MIT
# mkInstaller: an installer image that operators can log in to by SSH, for nixos-anywhere on machines
# that boot from a USB stick. Build config.system.build.isoImage.
{ defaultNixpkgs }:
{
  # Public keys of the operators who may log in as root.
  sshKeys,
  platform ? "x86_64-linux",
  modules ? [ ],
  nixpkgs ? defaultNixpkgs,
}:
assert nixpkgs.lib.assertMsg (
  sshKeys != [ ]
) "mkInstaller: sshKeys must hold at least one public key, or no one can log in";
nixpkgs.lib.nixosSystem {
  modules = [
    (
      { modulesPath, ... }:
      {
        imports = [ (modulesPath + "/installer/cd-dvd/installation-cd-minimal.nix") ];
        nixpkgs.hostPlatform = platform;
        users.users.root.openssh.authorizedKeys.keys = sshKeys;
        services.openssh.enable = true;
      }
    )
  ]
  ++ modules;
}
