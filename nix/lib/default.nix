# SPDX-License-Identifier: MIT
# The functions that a fleet's flake calls. `nixpkgs` is used where a fleet names none; no other input
# of the framework reaches a host.
{ nixpkgs }:
{
  mkHost = import ./mk-host.nix { defaultNixpkgs = nixpkgs; };
  mkVmApps = import ./mk-vm-apps.nix;
  mkInstaller = import ./mk-installer.nix { defaultNixpkgs = nixpkgs; };
}
