# SPDX-License-Identifier: MIT
# What hostSpec sets on nix-darwin. Locale, keyboard and root's password are left to macOS.
{ config, lib, ... }:
let
  cfg = config.hostSpec;
in
{
  _class = "darwin";
  imports = [ ./host-spec.nix ];

  config = {
    hostSpec.isDarwin = true;
    time.timeZone = lib.mkIf (cfg.timeZone != null) (lib.mkDefault cfg.timeZone);
    assertions = [
      {
        assertion = cfg.rootHashedPasswordFile == null;
        message = "hostSpec.rootHashedPasswordFile has no effect on macOS, where root cannot log in; remove it.";
      }
    ];
  };
}
