# SPDX-License-Identifier: MIT
# Part of scope operators: rules with which USERS become root without a password, for sudo and for sudo-rs,
# whichever the host has. They come after NixOS's own, and the last rule that matches counts. Not a module.
users:
let
  extraRules = [
    {
      inherit users;
      commands = [
        {
          command = "ALL";
          options = [
            "NOPASSWD"
            "SETENV"
          ];
        }
      ];
    }
  ];
in
{
  sudo = { inherit extraRules; };
  sudo-rs = { inherit extraRules; };
}
