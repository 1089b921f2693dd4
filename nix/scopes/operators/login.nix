# SPDX-License-Identifier: MIT
# Part of scope operators: who can log in to the host and become root, whichever module declared it. Not a module.
{ config, lib }:
let
  cfg = config.nixfleet.operators;

  # What the host really has, whichever module declared it.
  sshd = config.services.openssh;
  hasKey =
    user:
    sshd.enable
    && (user.openssh.authorizedKeys.keys != [ ] || user.openssh.authorizedKeys.keyFiles != [ ]);
  # "!" and "*" are hashes that no password matches.
  isHash = hash: hash != null && builtins.match "[!*].*" hash == null;
  hasPassword =
    user:
    isHash user.hashedPassword
    || isHash user.initialHashedPassword
    || user.hashedPasswordFile != null
    || user.password != null
    || user.initialPassword != null;
  isAdmin = user: user.isNormalUser && (lib.elem "wheel" user.extraGroups || user.group == "wheel");
  admins = lib.filter isAdmin (lib.attrValues config.users.users);
  rootUser = config.users.users.root;
  rootCanLogIn = hasPassword rootUser || (hasKey rootUser && sshd.settings.PermitRootLogin != "no");
  adminCanLogIn = lib.any (user: hasKey user || hasPassword user) admins;
  # Keys and passwords that the configuration does not hold: the account of a person whose password passwd
  # has set, or a cloud's service that writes root's keys at boot.
  comesFromElsewhere =
    people != [ ] && config.users.mutableUsers
    || sshd.authorizedKeysCommand != "none"
    || lib.any (name: config.systemd.services ? ${name}) [
      "apply-ec2-data"
      "cloud-init"
      "digitalocean-ssh-keys"
      "fetch-ec2-metadata"
      "google-guest-agent"
      "openstack-init"
      "waagent"
    ];
  someoneCanLogIn =
    rootCanLogIn
    || adminCanLogIn
    || comesFromElsewhere
    || config.services.getty.autologinUser != null
    || config.boot.isContainer;

  # Users whom the host declares without this scope.
  people = lib.filter (user: user.isNormalUser && !(cfg.users ? ${user.name})) (
    lib.attrValues config.users.users
  );
  # Whoever may depend on a password that passwd has set, which mutableUsers = false would remove. Other
  # passwords cannot be looked at here: NixOS derives them from mutableUsers.
  declaresAdmin = lib.any (
    user:
    user.isAdmin && (user.sshKeys != [ ] || user.sshKeyFiles != [ ] || user.hashedPasswordFile != null)
  ) (lib.attrValues cfg.users);
  ownPasswords =
    lib.filter (user: user.hashedPasswordFile == null) people
    ++ lib.optional (
      cfg.rootSshKeys == [ ]
      && cfg.rootSshKeyFiles == [ ]
      && !declaresAdmin
      && rootUser.hashedPasswordFile == null
    ) rootUser;
  unheeded = lib.attrNames (lib.filterAttrs (_: user: user.hashedPasswordFile != null) cfg.users);

  withoutPassword = lib.attrNames (lib.filterAttrs (_: user: user.passwordlessSudo) cfg.users);
  # A password that passwd has set cannot be seen here.
  stranded = lib.filter (
    user:
    !hasPassword user
    && !lib.elem user.name withoutPassword
    && !(config.users.mutableUsers && !(cfg.users ? ${user.name}))
  ) admins;
  noneBecomesRoot =
    !rootCanLogIn
    && config.security.sudo.wheelNeedsPassword
    && stranded != [ ]
    && lib.length stranded == lib.length admins;
in
{
  inherit
    noneBecomesRoot
    ownPasswords
    someoneCanLogIn
    stranded
    unheeded
    withoutPassword
    ;
}
