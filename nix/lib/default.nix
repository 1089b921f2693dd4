# SPDX-License-Identifier: MIT
# The functions a fleet's flake calls. `nixpkgs` is what mkHost takes when a fleet has no input
# of that name; nothing else of the framework's own inputs reaches a host.
{ nixpkgs }:
{
  mkHost = import ./mk-host.nix { defaultNixpkgs = nixpkgs; };
}
