# SPDX-License-Identifier: MIT
# What NixOS takes from hostSpec. A fact that is not given changes nothing.
{ config, lib, ... }:
let
  cfg = config.hostSpec;
  given = value: lib.mkIf (value != null) (lib.mkDefault value);
in
{
  _class = "nixos";
  imports = [ ./host-spec.nix ];

  config = {
    hostSpec.isDarwin = false;
    time.timeZone = given cfg.timeZone;
    i18n.defaultLocale = given cfg.locale;
    console.keyMap = given cfg.keyboardLayout;
    services.xserver.xkb.layout = given cfg.keyboardLayout;
    users.users = lib.mkIf (cfg.rootHashedPasswordFile != null) {
      root.hashedPasswordFile = lib.mkDefault cfg.rootHashedPasswordFile;
    };
  };
}
