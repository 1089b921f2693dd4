# SPDX-License-Identifier: MIT
# Platform module darwin-base: Remote Login by key, and shells that find the system's programs.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; }) onMac;
  scopes = import (root + "/nix/scopes");
  on = enable: onMac [
    scopes.darwinModules.darwin-base
    { nixfleet.darwin-base.enable = enable; }
  ];
in
{
  "evaluates" = on true (mac: mac.failedAssertions == [ ] && lib.hasInfix "darwin-system" mac.toplevel);
  "importing it changes nothing" = on false (with': onMac [ ] (plain: with'.toplevel == plain.toplevel));
  "sshd takes keys only, and no root" = on true (
    mac:
    lib.all (line: lib.hasInfix line mac.config.environment.etc."ssh/sshd_config.d/010-nixfleet.conf".text) [
      "PasswordAuthentication no"
      "KbdInteractiveAuthentication no"
      "PermitRootLogin no"
    ]
  );
  "shells find the system's programs" = on true (mac: mac.config.programs.zsh.enable && mac.config.programs.bash.enable);
}
