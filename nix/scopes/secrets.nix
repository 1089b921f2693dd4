# SPDX-License-Identifier: MIT
# Scope secrets (NixOS): the host key, which is created before agenix or sops-nix decrypt with it.
{
  config,
  lib,
  options,
  utils,
  ...
}:
let
  cfg = config.nixfleet.secrets;
  inherit (import ../lib/priorities.nix lib) chosen suggest;
  hasBackend = {
    agenix = options ? age;
    sops = options ? sops;
  };

  sshd = config.services.openssh;
  impermanence = config.nixfleet.impermanence or { enable = false; };
  etc = "${lib.optionalString impermanence.enable impermanence.persistRoot}/etc/ssh";
  isSet = option: option.highestPrio < 1200;
  ownHostKeys = lib.optionals (isSet options.services.openssh.hostKeys) sshd.hostKeys;
  ownPath = isSet options.nixfleet.secrets.hostKeyPath;
  followed = lib.findFirst (key: key.type == "ed25519") (
    if ownHostKeys == [ ] then { path = "${etc}/ssh_host_ed25519_key"; } else lib.head ownHostKeys
  ) ownHostKeys;
  declared = lib.findFirst (key: key.path == cfg.hostKeyPath) { type = "ed25519"; } sshd.hostKeys;

  # These decrypt in activation, or in units of their own on systems whose users are made by a unit.
  byUnit =
    config.systemd.sysusers.enable
    || config.services.userborn.enable or false
    || config.sops.useSystemdActivation or false;
  hasSecrets = config.age.secrets or { } != { } || config.sops.secrets or { } != { };
  # sshd makes its keys itself, but only when it starts.
  inActivation = (hasBackend.agenix || hasBackend.sops) && !byUnit;
  inUnit =
    (hasBackend.agenix || hasBackend.sops) && byUnit
    || !(sshd.enable || inActivation || sshd.generateHostKeys or false);

  # File systems on the key's path that are mounted only after secrets are decrypted.
  late = lib.filter (
    fs:
    !utils.fsNeededForBoot fs
    && lib.hasPrefix (lib.removeSuffix "/" fs.mountPoint + "/") cfg.hostKeyPath
  ) (lib.attrValues config.fileSystems);

  # Declares the script, so that it waits for the key; its own module adds the text.
  afterHostKey = {
    deps = [ "nixfleetHostKey" ];
    text = "";
  };
  key = lib.escapeShellArg cfg.hostKeyPath;
  generate = ''
    if [ ! -s ${key} ]; then
      mkdir -m 0755 -p "$(dirname ${key})"
      rm -f ${key}
      ${config.programs.ssh.package}/bin/ssh-keygen -q -t ${declared.type} -N "" -C ${lib.escapeShellArg config.networking.hostName} -f ${key}
    fi
  '';
  identities = lib.mkMerge [
    (lib.mkIf (isSet options.nixfleet.secrets.identityPaths) (chosen cfg.identityPaths))
    # Without sshd the back ends know no key.
    (lib.mkIf (!sshd.enable) (suggest cfg.identityPaths))
  ];
in
{
  _class = "nixos";

  imports = [ ./options/secrets.nix ];

  options.nixfleet.secrets.hostKeyPath = lib.mkOption {
    default = followed.path;
    defaultText = lib.literalMD "the ed25519 key of {option}`services.openssh.hostKeys` if the host sets these, else `/etc/ssh/ssh_host_ed25519_key`, below {option}`nixfleet.impermanence.persistRoot` when that scope is on";
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = [
          {
            assertion = cfg.backend == null || hasBackend.${cfg.backend};
            message = "nixfleet.secrets.backend is \"${toString cfg.backend}\" but its module is not part of this host. Add ${
              if cfg.backend == "sops" then "sops-nix.nixosModules.sops" else "agenix.nixosModules.default"
            } to its modules.";
          }
          {
            assertion = cfg.identityPaths != [ ];
            message = "nixfleet.secrets.identityPaths is empty, so no secret could be decrypted. Leave it at its default or name a private key.";
          }
          {
            assertion = late == [ ] || !(ownPath || hasSecrets);
            message = "nixfleet.secrets.hostKeyPath is on ${
              lib.concatMapStringsSep ", " (fs: fs.mountPoint) late
            }, which is mounted after secrets are decrypted. Set fileSystems.\"${(lib.head late).mountPoint}\".neededForBoot = true.";
          }
        ];

        # Where the keys are not where NixOS has them by default, sshd must present the same ones.
        services.openssh.hostKeys = lib.mkIf (ownPath || impermanence.enable) (suggest [
          {
            type = "ed25519";
            path = cfg.hostKeyPath;
          }
          {
            type = "rsa";
            bits = 4096;
            path = "${etc}/ssh_host_rsa_key";
          }
        ]);

        system.activationScripts.nixfleetHostKey = lib.mkIf inActivation {
          deps = [ "specialfs" ];
          text = generate;
        };
        systemd.services.nixfleet-host-key = lib.mkIf inUnit {
          description = suggest "Generate the host's SSH key";
          wantedBy = [ "sysinit.target" ];
          before = [
            "agenix-install-secrets.service"
            "sops-install-secrets.service"
            "sshd-keygen.service"
            "sysinit.target"
          ];
          unitConfig = {
            DefaultDependencies = suggest false;
            RequiresMountsFor = [ cfg.hostKeyPath ];
          };
          serviceConfig.Type = suggest "oneshot";
          script = generate;
        };
      }
      # NixOS 26.05 and later: sshd's own unit makes the keys of a host without sshd.
      (lib.optionalAttrs (options.services.openssh ? generateHostKeys) {
        services.openssh.generateHostKeys = suggest true;
      })
      (lib.optionalAttrs hasBackend.agenix {
        age.identityPaths = identities;
        system.activationScripts.agenixNewGeneration = lib.mkIf inActivation afterHostKey;
      })
      (lib.optionalAttrs hasBackend.sops {
        sops.age.sshKeyPaths = identities;
        system.activationScripts.setupSecrets = lib.mkIf inActivation afterHostKey;
        system.activationScripts.setupSecretsForUsers = lib.mkIf inActivation afterHostKey;
      })
    ]
  );
}
