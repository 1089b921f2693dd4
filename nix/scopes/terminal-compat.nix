# SPDX-License-Identifier: MIT
# Scope terminal-compat (NixOS): sessions from terminals that the host has never heard of.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.terminal-compat;
in
{
  _class = "nixos";

  options.nixfleet.terminal-compat = {
    enable = lib.mkEnableOption "descriptions of all common terminals, and a fallback for the others";

    fallback = mkOption {
      type = types.nullOr types.str;
      default = "xterm-256color";
      description = ''
        What an interactive shell takes for `TERM` when the host does not know the terminal, instead of a
        session in which arrow keys and full-screen programs do not work. Null leaves `TERM` alone.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    environment.enableAllTerminfo = lib.mkDefault true;

    environment.interactiveShellInit = lib.mkIf (cfg.fallback != null) ''
      if [ -n "$TERM" ] && ! ${pkgs.ncurses}/bin/infocmp "$TERM" >/dev/null 2>&1; then
        export TERM=${lib.escapeShellArg cfg.fallback}
      fi
    '';
  };
}
