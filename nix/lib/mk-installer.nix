# SPDX-License-Identifier: MIT
# mkInstaller: an installer image into which the operator can log in by SSH, for nixos-anywhere on
# machines that boot from a stick. Build config.system.build.isoImage.
{ defaultNixpkgs }:
{
  # Public keys of who may log in as root.
  sshKeys,
  platform ? "x86_64-linux",
  modules ? [ ],
  nixpkgs ? defaultNixpkgs,
}:
assert nixpkgs.lib.assertMsg (
  sshKeys != [ ]
) "mkInstaller: sshKeys must hold at least one public key, or nobody can log in";
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
