# SPDX-License-Identifier: MIT
# Scope operators: accounts, keys, groups, and an error for a host that no one can log in to.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; })
    fires
    host
    onMac
    sshKey
    withInput
    ;
  scopes = import (root + "/nix/scopes");

  with' =
    operators: modules:
    host (
      [
        scopes.nixosModules.operators
        {
          services.openssh.enable = true;
          nixfleet.operators = {
            enable = true;
          } // operators;
        }
      ]
      ++ modules
    );
  alice = {
    isAdmin = true;
    sshKeys = [ sshKey ];
    hashedPasswordFile = "/run/secrets/alice";
    extraGroups = [ "video" ];
    shell = "zsh";
    description = "Alice Martin";
  };
  good = with' {
    users.alice = alice;
    users.bob = { };
    primaryUser = "alice";
    rootSshKeys = [ sshKey ];
  } [ ];
  user = good.config.users.users.alice;
  root' = good.config.users.users.root;
  keyOnly = with' {
    users.alice = {
      isAdmin = true;
      sshKeys = [ sshKey ];
    };
  } [ ];
  # The rules of sudo in the order in which they apply; the last one that matches counts.
  rulesOf =
    sudo: user:
    lib.concatMap (rule: map (command: "${command.command}: ${toString command.options}") rule.commands) (
      lib.filter (rule: lib.elem user rule.users || lib.elem "wheel" (rule.groups or [ ])) sudo.extraRules
    );
  sudoer = with' {
    users.alice = {
      isAdmin = true;
      passwordlessSudo = true;
      sshKeys = [ sshKey ];
      uid = 1234;
      sshKeyFiles = [ ./fixtures/operator.pub ];
    };
    users.bob = {
      isAdmin = true;
      sshKeys = [ sshKey ];
    };
    rootSshKeyFiles = [ ./fixtures/operator.pub ];
  } [ { services.openssh.settings.PermitRootLogin = "no"; } ];
  rules = lib.filter (lib.hasInfix "=(") (lib.splitString "\n" sudoer.config.security.sudo.configFile);
  deploying = with' {
    users.alice = alice;
    deploy.sshKeys = [ sshKey ];
  } [ { services.openssh.settings.PermitRootLogin = "no"; } ];
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "an admin is a normal user in wheel with keys, password and shell" = {
    expr = {
      inherit (user)
        isNormalUser
        extraGroups
        hashedPasswordFile
        description
        home
        ;
      keys = user.openssh.authorizedKeys.keys;
      shell = lib.getName user.shell;
    };
    expected = {
      isNormalUser = true;
      extraGroups = [
        "wheel"
        "video"
      ];
      hashedPasswordFile = "/run/secrets/alice";
      description = "Alice Martin";
      home = "/home/alice";
      keys = [ sshKey ];
      shell = "zsh";
    };
  };
  "a shell that an operator uses is enabled" = good.config.programs.zsh.enable && !good.config.programs.fish.enable;
  "an operator who is not an admin is not in wheel" = good.config.users.users.bob.extraGroups == [ ];
  "root accepts the deploy keys" = root'.openssh.authorizedKeys.keys == [ sshKey ];
  "only declared accounts exist" = !good.config.users.mutableUsers;
  "passwords that passwd has set stay, and a warning says for whom" =
    let
      evaluation = with' { users.alice = alice; } [ { users.users.carol.isNormalUser = true; } ];
    in
    evaluation.config.users.mutableUsers && lib.any (lib.hasInfix "It stays true for carol") evaluation.warnings;
  "the host decides whether accounts may change" =
    (with' { users.alice = alice; } [ { users.mutableUsers = true; } ]).config.users.mutableUsers;
  "there is a warning about an admin whom sudo would refuse" = lib.any (lib.hasInfix "can log in but cannot become root") keyOnly.warnings;
  "an admin with a password is not" = !(lib.any (lib.hasInfix "become root") good.warnings);

  "an admin who logs in with a key only can become root, if that is chosen" = {
    expr = {
      inherit (sudoer) failedAssertions;
      warned = lib.any (lib.hasInfix "alice") sudoer.warnings;
      alice = lib.last (rulesOf sudoer.config.security.sudo "alice");
      bob = lib.last (rulesOf sudoer.config.security.sudo "bob");
      withSudoRs = lib.last (rulesOf sudoer.config.security.sudo-rs "alice");
      # In the file that sudo reads, the rule is after that of wheel.
      inFile = lib.last (lib.filter (lib.hasInfix "NOPASSWD") rules) == lib.last rules && lib.hasPrefix "alice" (lib.last rules);
    };
    expected = {
      failedAssertions = [ ];
      warned = false;
      alice = "ALL: NOPASSWD SETENV";
      bob = "ALL: SETENV";
      withSudoRs = "ALL: NOPASSWD SETENV";
      inFile = true;
    };
  };
  "a user id and keys from files" = {
    expr = {
      inherit (sudoer.config.users.users.alice) uid;
      alice = lib.length sudoer.config.users.users.alice.openssh.authorizedKeys.keyFiles;
      root = lib.length sudoer.config.users.users.root.openssh.authorizedKeys.keyFiles;
      evaluates = lib.hasSuffix ".drv" sudoer.toplevel;
    };
    expected = {
      uid = 1234;
      alice = 1;
      root = 1;
      evaluates = true;
    };
  };
  "a user for deployments copies to the store and becomes root" = {
    expr = {
      inherit (deploying) failedAssertions;
      inherit (deploying.config.users.users.deploy) isSystemUser;
      keys = deploying.config.users.users.deploy.openssh.authorizedKeys.keys;
      shell = lib.getName deploying.config.users.users.deploy.shell;
      sudo = lib.last (rulesOf deploying.config.security.sudo "deploy");
      trusted = lib.elem "deploy" deploying.config.nix.settings.trusted-users;
      otherwise = good.config.users.users ? deploy || lib.elem "deploy" good.config.nix.settings.trusted-users;
    };
    expected = {
      failedAssertions = [ ];
      isSystemUser = true;
      keys = [ sshKey ];
      shell = "bash";
      sudo = "ALL: NOPASSWD SETENV";
      trusted = true;
      otherwise = false;
    };
  };
  "fires: a placeholder is no key of the user for deployments" = fires "not an SSH public key: \"REPLACE-ME\"" (
    with' {
      users.alice = alice;
      deploy.sshKeys = [ "REPLACE-ME" ];
    } [ ]
  );
  "fires: no one could log in" = fires "nixfleet.operators: no one could log in to this host" (
    # A password avoids NixOS's own assertion about the same problem.
    with' { users.bob.sshKeys = [ sshKey ]; } [ { users.allowNoPasswordLogin = true; } ]
  );
  "fires: keys do not help without sshd" = fires "nixfleet.operators: no one could log in to this host" (
    with' { users.alice = alice // { hashedPasswordFile = null; }; } [
      {
        services.openssh.enable = lib.mkForce false;
        users.allowNoPasswordLogin = true;
      }
    ]
  );
  "fires: root keys do not help when sshd refuses root" = fires "no one could log in" (
    with' { rootSshKeys = [ sshKey ]; } [
      {
        services.openssh.settings.PermitRootLogin = "no";
        users.allowNoPasswordLogin = true;
      }
    ]
  );
  "fires: a placeholder is not a key" = fires "not an SSH public key: \"ssh-ed25519 REPLACE-ME\"" (
    with' { rootSshKeys = [ "ssh-ed25519 REPLACE-ME" ]; } [ ]
  );
  "keys with options and keys of hardware tokens are accepted" = {
    expr =
      (with' {
        rootSshKeys = [
          "from=\"10.0.0.1\",no-pty ${sshKey}"
          "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAbcdefghijklmnopqrstuvwxyz0123456789ABCDEFG token"
          "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBAbc="
        ];
      } [ ]).failedAssertions;
    expected = [ ];
  };
  "fires: the primary user must exist" = fires "nixfleet.operators.primaryUser is \"carol\"" (
    with' {
      users.alice = alice;
      primaryUser = "carol";
    } [ ]
  );
  "fires: homeManager without home-manager" = fires "Add home-manager.nixosModules.home-manager" (
    with' { users.alice = alice // { homeManager = { }; }; } [ ]
  );
  "homeManager configures the operator's home" = withInput "home-manager" (home-manager: {
    expr =
      (with'
        {
          users.alice = alice // {
            homeManager = {
              home.stateVersion = "24.05";
              home.sessionVariables.EDITOR = "vim";
            };
          };
        }
        [ home-manager.nixosModules.home-manager ]
      ).config.home-manager.users.alice.home.sessionVariables.EDITOR;
    expected = "vim";
  });
  "a Mac gets keys and shells" =
    onMac
      [
        scopes.darwinModules.operators
        {
          nixfleet.operators = {
            enable = true;
            users.alice = {
              isAdmin = true;
              sshKeys = [ sshKey ];
              shell = "fish";
            };
            primaryUser = "alice";
          };
        }
      ]
      (mac: {
        expr = {
          inherit (mac.config.users.users.alice) home;
          keys = mac.config.users.users.alice.openssh.authorizedKeys.keys;
          fish = mac.config.programs.fish.enable;
          admin = lib.hasInfix "dseditgroup -o edit -a \"$user\" -t user admin" mac.config.system.activationScripts.postActivation.text;
          # Some versions of nix-darwin that the tests use do not have it.
            primary = mac.config.system.primaryUser or "alice";
          inherit (mac) failedAssertions;
        };
        expected = {
          home = "/Users/alice";
          keys = [ sshKey ];
          fish = true;
          admin = true;
          primary = "alice";
          failedAssertions = [ ];
        };
      });
  "a Mac: fires: the primary user must exist" =
    onMac
      [
        scopes.darwinModules.operators
        {
          nixfleet.operators = {
            enable = true;
            users.alice = { };
            primaryUser = "carol";
          };
        }
      ]
      (fires "nixfleet.operators.primaryUser is \"carol\"");
  "a Mac: fires: homeManager without home-manager" =
    onMac
      [
        scopes.darwinModules.operators
        {
          nixfleet.operators = {
            enable = true;
            users.alice.homeManager = { };
          };
        }
      ]
      (fires "Add home-manager.darwinModules.home-manager");
}
