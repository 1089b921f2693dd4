# SPDX-License-Identifier: MIT
# Platform module nixos-base: what every NixOS host needs to be reached by SSH, whatever its role, and an error
# for a host that nothing boots.
{
  config,
  lib,
  options,
  ...
}:
let
  cfg = config.nixfleet.nixos-base;
  inherit (import ../lib/priorities.nix lib) suggest;
  inherit (config.boot.loader) grub;

  # Accounts of people who have no key: sshd must let them in as before.
  sshd = config.services.openssh;
  hasOwnSshd = options.services.openssh.enable.highestPrio < 1200;
  needPassword = lib.filter (
    user:
    user.isNormalUser
    && user.openssh.authorizedKeys.keys == [ ]
    && user.openssh.authorizedKeys.keyFiles == [ ]
  ) (lib.attrValues config.users.users);
  keysOnly = !hasOwnSshd || needPassword == [ ];
in
{
  _class = "nixos";

  options.nixfleet.nixos-base = {
    enable = lib.mkEnableOption "an SSH server that takes keys only, a bounded number of boot entries, and an error if the host has no boot loader";

    bootLoader = lib.mkOption {
      type = lib.types.bool;
      default = !config.boot.isContainer;
      defaultText = lib.literalExpression "!config.boot.isContainer";
      description = ''
        Whether a host without a boot loader is an error. NixFleet chooses none: set one of
        {option}`boot.loader`, or use a disk template, {option}`nixfleet.hardware.legacyBoot` or
        {option}`nixfleet.hardware.secureBoot`.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        # NixOS enables GRUB where nothing else is declared, and then has no disk to write it to.
        assertion = cfg.bootLoader && grub.enable -> grub.mirroredBoots != [ ];
        message = "nixfleet.nixos-base: nothing boots this host. Set boot.loader.systemd-boot.enable = true (UEFI) or boot.loader.grub.device (BIOS), as the configuration.nix of nixos-generate-config does, or use a disk template, nixfleet.hardware.legacyBoot or nixfleet.hardware.secureBoot.";
      }
    ];
    warnings = lib.optional (!keysOnly && sshd.settings.PasswordAuthentication == true) ''
      nixfleet.nixos-base: sshd still takes passwords, because ${lib.concatMapStringsSep ", " (user: user.name) needPassword} may have no other way in. Give them SSH keys, or set services.openssh.settings.PasswordAuthentication = false.
    '';

    # When /boot is full, every later switch fails.
    boot.loader.systemd-boot.configurationLimit = suggest 20;
    boot.loader.grub.configurationLimit = suggest 20;

    services.openssh = {
      enable = suggest true;
      settings = {
        KbdInteractiveAuthentication = lib.mkIf keysOnly (suggest false);
        PasswordAuthentication = lib.mkIf keysOnly (suggest false);
        PermitRootLogin = suggest "prohibit-password";
      };
    };
  };
}
