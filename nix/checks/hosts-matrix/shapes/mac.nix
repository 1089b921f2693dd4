# SPDX-License-Identifier: MIT
# A Mac whose Nix belongs to nix-darwin.
{ sshKey, ... }:
{
  class = "darwin";
  modules = [
    {
      environment.systemPath = [ "/opt/homebrew/bin" ];
      nix.settings.trusted-users = [ "alice" ];
      programs.zsh.enable = true;
      users.users.alice = {
        home = "/Users/alice";
        openssh.authorizedKeys.keys = [ sshKey ];
      };
    }
  ];
}
