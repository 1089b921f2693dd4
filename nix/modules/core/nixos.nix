# SPDX-License-Identifier: MIT
# What hostSpec sets on NixOS. A fact that is null changes nothing.
{ config, lib, ... }:
let
  cfg = config.hostSpec;
  inherit (import ../../lib/priorities.nix lib) chosen;
  given = value: lib.mkIf (value != null) (chosen value);
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
      root.hashedPasswordFile = chosen cfg.rootHashedPasswordFile;
    };
  };
}
