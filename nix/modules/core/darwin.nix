# SPDX-License-Identifier: MIT
# What nix-darwin takes from hostSpec. Locale, keyboard and root's password are macOS's own settings.
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
