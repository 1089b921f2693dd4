# SPDX-License-Identifier: MIT
# The functions a fleet's flake calls. `nixpkgs` is what they take when a fleet names none; nothing
# else of the framework's own inputs reaches a host.
{ nixpkgs }:
{
  mkHost = import ./mk-host.nix { defaultNixpkgs = nixpkgs; };
  mkVmApps = import ./mk-vm-apps.nix;
  mkInstaller = import ./mk-installer.nix { defaultNixpkgs = nixpkgs; };
}
