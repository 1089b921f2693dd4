# SPDX-License-Identifier: MIT
# Options of the base scope, the same on NixOS, nix-darwin and home-manager.
{ lib, pkgs, ... }:
{
  options.nixfleet.base = {
    enable = lib.mkEnableOption "the command line tools that an operator expects on every machine";

    packages = lib.mkOption {
      type = lib.types.listOf lib.types.package;
      default = [
        pkgs.curl
        pkgs.fd
        pkgs.file
        pkgs.git
        pkgs.htop
        pkgs.jq
        pkgs.lsof
        pkgs.ripgrep
        pkgs.rsync
        pkgs.tree
        pkgs.unzip
        pkgs.vim
      ];
      defaultText = lib.literalMD "curl, fd, file, git, htop, jq, lsof, ripgrep, rsync, tree, unzip and vim";
      example = lib.literalExpression "[ pkgs.git pkgs.vim ]";
      description = ''
        Packages in every user's environment. Setting this replaces the default list; to add packages to
        it, use the platform's own option (`environment.systemPackages`, `home.packages`).
      '';
    };
  };
}
