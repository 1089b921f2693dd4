# SPDX-License-Identifier: MIT
# Scope operators (nix-darwin): keys and shells of accounts that macOS created.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  cfg = config.nixfleet.operators;
  inherit (import ../../lib/priorities.nix lib) chosen suggest;

  admins = lib.attrNames (lib.filterAttrs (_: user: user.isAdmin) cfg.users);
  withHomeManager = lib.filterAttrs (_: user: user.homeManager != null) cfg.users;
  shells = lib.catAttrs "shell" (lib.attrValues cfg.users);
in
{
  _class = "darwin";

  imports = [ ../options/operators.nix ];

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = [
          {
            assertion = withHomeManager == { } || options ? home-manager;
            message = "nixfleet.operators.users.${lib.concatStringsSep ", " (lib.attrNames withHomeManager)}: homeManager is set but home-manager is not part of this host. Add home-manager.darwinModules.home-manager to its modules.";
          }
          {
            assertion =
              cfg.primaryUser == null || cfg.users == { } || cfg.users ? ${cfg.primaryUser};
            message = "nixfleet.operators.primaryUser is \"${toString cfg.primaryUser}\", which is not one of nixfleet.operators.users. Add it there or name one of: ${lib.concatStringsSep ", " (lib.attrNames cfg.users)}.";
          }
        ];

        # Not in users.knownUsers: macOS owns the accounts, and nix-darwin can delete an account that it knows.
        users.users = lib.mapAttrs (name: user: {
          home = suggest "/Users/${name}";
          description = lib.mkIf (user.description != "") (chosen user.description);
          openssh.authorizedKeys.keys = user.sshKeys;
          openssh.authorizedKeys.keyFiles = user.sshKeyFiles;
          shell = lib.mkIf (user.shell != null) (chosen pkgs.${user.shell});
        }) cfg.users;

        # By the system's own tool, and never removed: the account that macOS made first is an admin without us.
        system.activationScripts.postActivation.text = lib.mkIf (admins != [ ]) ''
          for user in ${lib.escapeShellArgs admins}; do
            if ! id -- "$user" >/dev/null 2>&1; then
              echo "nixfleet.operators: $user is not an account of this Mac yet; create it, then activate again" >&2
            elif ! /usr/sbin/dseditgroup -o checkmember -m "$user" admin >/dev/null; then
              /usr/sbin/dseditgroup -o edit -a "$user" -t user admin
            fi
          done
        '';

        programs.zsh.enable = lib.mkIf (lib.elem "zsh" shells) (suggest true);
        programs.fish.enable = lib.mkIf (lib.elem "fish" shells) (suggest true);
      }
      (lib.optionalAttrs (options ? home-manager) {
        home-manager.users = lib.mapAttrs (_: user: {
          imports = [ user.homeManager ];
        }) withHomeManager;
      })
      (lib.optionalAttrs (options.system ? primaryUser) {
        system.primaryUser = lib.mkIf (cfg.primaryUser != null) (chosen cfg.primaryUser);
      })
    ]
  );
}
