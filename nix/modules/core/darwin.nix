# SPDX-License-Identifier: MIT
# What hostSpec sets on nix-darwin. Locale, keyboard and root's password are left to macOS.
{ config, lib, ... }:
let
  cfg = config.hostSpec;
  inherit (import ../../lib/priorities.nix lib) chosen;
in
{
  _class = "darwin";
  imports = [ ./host-spec.nix ];

  config = {
    hostSpec.isDarwin = true;
    time.timeZone = lib.mkIf (cfg.timeZone != null) (chosen cfg.timeZone);
    assertions = [
      {
        assertion = cfg.rootHashedPasswordFile == null;
        message = "hostSpec.rootHashedPasswordFile has no effect on macOS, where root cannot log in; remove it.";
      }
    ];
  };
}
