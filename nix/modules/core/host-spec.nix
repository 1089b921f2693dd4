# SPDX-License-Identifier: MIT
# hostSpec: facts about a host that several modules need. A fleet adds its own facts by declaring
# further options below hostSpec.
{ config, lib, ... }:
let
  cfg = config.hostSpec;
  fact =
    type: example: description:
    lib.mkOption {
      type = lib.types.nullOr type;
      default = null;
      inherit example description;
    };
in
{
  options.hostSpec = {
    hostName = lib.mkOption {
      type = lib.types.str;
      default = if config.networking.hostName == null then "" else config.networking.hostName;
      defaultText = lib.literalExpression "config.networking.hostName";
      description = "The host's name, which is also its machine id in the fleet.";
    };
    userName = fact lib.types.str "alice" ''
      The host's main user. This creates no account: `hostSpec.home`, and modules that place files or
      secrets for the main user, use it.
    '';
    home = lib.mkOption {
      type = lib.types.str;
      default =
        if cfg.userName == null then
          (if cfg.isDarwin then "/var/root" else "/root")
        else
          (if cfg.isDarwin then "/Users/${cfg.userName}" else "/home/${cfg.userName}");
      defaultText = lib.literalMD "the home directory of `hostSpec.userName`, or root's";
      description = "Home directory of the main user.";
    };
    timeZone = fact lib.types.str "Europe/Paris" "The host's time zone; null keeps the system's default.";
    locale = fact lib.types.str "fr_FR.UTF-8" "The host's locale; null keeps the system's default.";
    keyboardLayout = fact lib.types.str "fr" ''
      Keyboard layout of the console and of X11; null keeps the system's default.
    '';
    rootHashedPasswordFile = fact lib.types.str "/run/secrets/root-password" ''
      File on the host that holds the hash of root's password; null sets no password.
    '';
    networking = lib.mkOption {
      type = lib.types.attrsOf lib.types.anything;
      default = { };
      example = {
        interface = "enp1s0";
        address = "192.0.2.10";
      };
      description = "Facts about the host's network, for the fleet's own modules. NixFleet configures nothing from them.";
    };
    secretsPath = fact lib.types.str "/persist/secrets" ''
      Directory on the host below which the fleet keeps secrets; the fleet's own modules may use it.
    '';
    isDarwin = lib.mkOption {
      type = lib.types.bool;
      readOnly = true;
      description = "Whether the host runs macOS.";
    };
  };
}
