# SPDX-License-Identifier: MIT
# Scope terminal-compat (NixOS): sessions from terminals that the host does not know.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.nixfleet.terminal-compat;
  inherit (import ../lib/priorities.nix lib) suggest;
in
{
  _class = "nixos";

  options.nixfleet.terminal-compat = {
    enable = lib.mkEnableOption "a fallback for terminals that the host does not know";

    allTerminfo = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to install the terminfo of all common terminals. Their programs then need no fallback. The
        system contains a part of each of these packages.
      '';
    };

    fallback = mkOption {
      type = types.nullOr types.str;
      default = "xterm-256color";
      description = ''
        Value of `TERM` in interactive shells when the host does not know the terminal. Without it, arrow
        keys and full-screen programs do not work. Null: do not change `TERM`.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    environment.enableAllTerminfo = lib.mkIf cfg.allTerminfo (suggest true);

    environment.interactiveShellInit = lib.mkIf (cfg.fallback != null) ''
      if [ -n "$TERM" ] && ! ${pkgs.ncurses}/bin/infocmp "$TERM" >/dev/null 2>&1; then
        export TERM=${lib.escapeShellArg cfg.fallback}
      fi
    '';
  };
}
