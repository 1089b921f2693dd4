# SPDX-License-Identifier: MIT
# Platform module darwin-base: what every Mac needs for remote management, whatever its role.
{
  config,
  lib,
  options,
  ...
}:
let
  cfg = config.nixfleet.darwin-base;
  inherit (import ../lib/priorities.nix lib) suggest;
in
{
  _class = "darwin";

  options.nixfleet.darwin-base.enable = lib.mkEnableOption "Remote Login that takes keys only, and shells that find the system's programs";

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        programs.bash.enable = suggest true;
        programs.zsh.enable = suggest true;

        # macOS reads this folder before its own settings, and uses the first value that it finds.
        environment.etc."ssh/sshd_config.d/010-nixfleet.conf".text = ''
          KbdInteractiveAuthentication no
          PasswordAuthentication no
          PermitRootLogin no
        '';
      }
      # Newer nix-darwin only; with older ones, enable Remote Login by hand.
      (lib.optionalAttrs (options.services ? openssh.enable) {
        services.openssh.enable = suggest true;
      })
    ]
  );
}
