# SPDX-License-Identifier: MIT
# A Mac whose Nix belongs to another installer, such as Determinate's: nix-darwin leaves it alone.
_: {
  class = "darwin";
  modules = [
    (
      { pkgs, ... }:
      {
        nix.enable = false;
        programs.fish.enable = true;
        users.users.alice = {
          home = "/Users/alice";
          shell = pkgs.fish;
        };
      }
    )
  ];
}
