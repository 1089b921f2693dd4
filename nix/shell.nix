# SPDX-License-Identifier: MIT
# The shell of `nix develop`: what `make`, and a change to any part of the repository, need.
{ pkgs }:
pkgs.mkShell {
  packages = [
    pkgs.go
    pkgs.gofumpt
    pkgs.golangci-lint
    pkgs.gopls
    pkgs.gnumake
    pkgs.perl
    pkgs.shellcheck
    (pkgs.nixfmt or pkgs.nixfmt-rfc-style)
    pkgs.deadnix
    pkgs.statix
  ];
}
