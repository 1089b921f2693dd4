# SPDX-License-Identifier: MIT
# Scope operators (NixOS): who may log in, as which user, and an error for a host that no one can log in to.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  cfg = config.nixfleet.operators;
  inherit (import ../lib/priorities.nix lib) chosen suggest;

  withHomeManager = lib.filterAttrs (_: user: user.homeManager != null) cfg.users;
  shells = lib.catAttrs "shell" (lib.attrValues cfg.users);

  # A key as sshd reads it: options may precede the type. The placeholder of a template does not match.
  keyPattern = "(.* )?(sk-)?(ssh|ecdsa)-[a-z0-9@.-]+ AAAA[A-Za-z0-9+/]{20,}=*( .*)?";
  keys =
    cfg.rootSshKeys
    ++ cfg.deploy.sshKeys
    ++ lib.concatMap (user: user.sshKeys) (lib.attrValues cfg.users);
  badKeys = lib.filter (key: builtins.match keyPattern key == null) keys;

  inherit (import ./operators/login.nix { inherit config lib; })
    noneBecomesRoot
    ownPasswords
    someoneCanLogIn
    stranded
    unheeded
    withoutPassword
    ;
in
{
  _class = "nixos";

  imports = [
    ./options/operators.nix
    ./operators/deploy.nix
  ];

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = [
          {
            assertion = someoneCanLogIn;
            message = "nixfleet.operators: no one could log in to this host. Set nixfleet.operators.rootSshKeys, or give a user with isAdmin = true sshKeys (with services.openssh.enable = true) or a hashedPasswordFile.";
          }
          {
            assertion = badKeys == [ ];
            message = "nixfleet.operators: not an SSH public key: ${lib.concatMapStringsSep ", " (key: "\"${key}\"") badKeys}. Put the contents of a .pub file into nixfleet.operators.rootSshKeys or nixfleet.operators.users.<name>.sshKeys.";
          }
          {
            assertion =
              cfg.primaryUser == null || cfg.users == { } || config.users.users ? ${cfg.primaryUser};
            message = "nixfleet.operators.primaryUser is \"${toString cfg.primaryUser}\", which is not a user of this host. Add nixfleet.operators.users.${toString cfg.primaryUser} or name one of: ${lib.concatStringsSep ", " (lib.attrNames cfg.users)}.";
          }
          {
            assertion = withHomeManager == { } || options ? home-manager;
            message = "nixfleet.operators.users.${lib.concatStringsSep ", " (lib.attrNames withHomeManager)}: homeManager is set but home-manager is not part of this host. Add home-manager.nixosModules.home-manager to its modules.";
          }
        ];

        warnings =
          lib.optional (unheeded != [ ] && ownPasswords != [ ] && config.users.mutableUsers) ''
            nixfleet.operators: a new hash in the hashedPasswordFile of ${lib.concatStringsSep ", " unheeded} has no effect, because users.mutableUsers is true. It stays true for ${lib.concatMapStringsSep ", " (user: user.name) ownPasswords}, whose passwords may have been set with passwd. Set users.mutableUsers = false if they need none of these; this also deletes accounts that are not declared.
          ''
          ++ lib.optional noneBecomesRoot ''
            nixfleet.operators: ${lib.concatMapStringsSep ", " (user: user.name) stranded} can log in but cannot become root: sudo asks for a password, and there is none. Set passwordlessSudo or hashedPasswordFile in nixfleet.operators.users.
          '';

        # Only declared accounts exist: a removed one is deleted, and a changed hash takes effect.
        users.mutableUsers = lib.mkIf (ownPasswords == [ ]) (suggest false);

        users.users = lib.mapAttrs (_: user: {
          isNormalUser = true;
          description = lib.mkIf (user.description != "") (chosen user.description);
          extraGroups = lib.optional user.isAdmin "wheel" ++ user.extraGroups;
          uid = lib.mkIf (user.uid != null) (chosen user.uid);
          openssh.authorizedKeys.keys = user.sshKeys;
          openssh.authorizedKeys.keyFiles = user.sshKeyFiles;
          hashedPasswordFile = lib.mkIf (user.hashedPasswordFile != null) (chosen user.hashedPasswordFile);
          # The option's own default already has mkDefault's priority.
          shell = lib.mkIf (user.shell != null) (chosen pkgs.${user.shell});
        }) cfg.users // {
          root.openssh.authorizedKeys = {
            keys = cfg.rootSshKeys;
            keyFiles = cfg.rootSshKeyFiles;
          };
        };

        security = lib.mkIf (withoutPassword != [ ]) (import ./operators/sudo.nix withoutPassword);

        programs.zsh.enable = lib.mkIf (lib.elem "zsh" shells) (suggest true);
        programs.fish.enable = lib.mkIf (lib.elem "fish" shells) (suggest true);
      }
      (lib.optionalAttrs (options ? home-manager) {
        home-manager.users = lib.mapAttrs (_: user: {
          imports = [ user.homeManager ];
        }) withHomeManager;
      })
    ]
  );
}
