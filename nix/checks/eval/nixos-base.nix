# SPDX-License-Identifier: MIT
# Platform module nixos-base: SSH, and an error where nothing boots; the host's own settings override it. The
# tests of roles and the matrix of hosts cover the rest.
{
  lib,
  harness,
  root,
}:
let
  inherit (import ./fixtures/hosts.nix { inherit lib harness; })
    bareHost
    generatedHardware
    host
    sshKey
    ;
  scopes = import (root + "/nix/scopes");

  with' =
    module:
    bareHost [
      generatedHardware
      scopes.nixosModules.nixos-base
      { nixfleet.nixos-base.enable = true; }
      module
    ];
  good = with' { };
  own = with' {
    boot.loader.systemd-boot.configurationLimit = 5;
    services.openssh.settings.PasswordAuthentication = true;
  };
  nothing = bareHost [
    scopes.nixosModules.nixos-base
    {
      nixfleet.nixos-base.enable = true;
      fileSystems."/" = {
        device = "/dev/vda1";
        fsType = "ext4";
      };
    }
  ];
  isNamed = lib.any (lib.hasInfix "nothing boots this host. Set boot.loader.systemd-boot.enable");
  people = keys: with' {
    services.openssh.enable = true;
    users.users.alice.isNormalUser = true;
    users.users.alice.openssh.authorizedKeys.keys = keys;
  };
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.nixos-base ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "the boot loader is the host's, with a bounded number of entries" =
    good.config.boot.loader.systemd-boot.enable
    && !good.config.boot.loader.grub.enable
    && good.config.boot.loader.systemd-boot.configurationLimit == 20;
  "fires: no boot loader" = isNamed nothing.failedAssertions && !nothing.config.boot.loader.systemd-boot.enable;
  "a host that something else boots may have none" =
    !isNamed (with' { boot.loader.systemd-boot.enable = lib.mkForce false; boot.loader.grub.enable = false; }).failedAssertions;
  "the clock is synchronised" = good.config.services.timesyncd.enable;
  "sshd takes keys only" =
    let
      inherit (good.config.services.openssh) settings;
    in
    !settings.PasswordAuthentication && !settings.KbdInteractiveAuthentication && settings.PermitRootLogin == "prohibit-password";
  "the host's own values are kept" =
    own.config.boot.loader.systemd-boot.configurationLimit == 5 && own.config.services.openssh.settings.PasswordAuthentication;
  "people without a key keep their passwords, and a warning names them" =
    (people [ ]).config.services.openssh.settings.PasswordAuthentication
    && lib.any (lib.hasInfix "because alice may have no other way in") (people [ ]).warnings;
  "people with a key need none" =
    !(people [ sshKey ]).config.services.openssh.settings.PasswordAuthentication && (people [ sshKey ]).warnings == [ ];
}
