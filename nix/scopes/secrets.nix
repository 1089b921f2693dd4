# SPDX-License-Identifier: MIT
# Scope secrets (NixOS): one host key, which is created before agenix or sops-nix decrypt with it.
{
  config,
  lib,
  options,
  utils,
  ...
}:
let
  cfg = config.nixfleet.secrets;
  hasBackend = {
    agenix = options ? age;
    sops = options ? sops;
  };

  # File systems on the key's path that are mounted only after activation looks for the key.
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
  comment = lib.escapeShellArg config.networking.hostName;
in
{
  _class = "nixos";

  imports = [ ./options/secrets.nix ];

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
            assertion = late == [ ];
            message = "nixfleet.secrets.hostKeyPath is on ${
              lib.concatMapStringsSep ", " (fs: fs.mountPoint) late
            }, which is mounted after secrets are decrypted. Set fileSystems.\"${(lib.head late).mountPoint}\".neededForBoot = true.";
          }
        ];

        services.openssh.hostKeys = lib.mkDefault [
          {
            type = "ed25519";
            path = cfg.hostKeyPath;
          }
        ];

        system.activationScripts.nixfleetHostKey = {
          deps = [ "specialfs" ];
          text = ''
            if [ ! -s ${key} ]; then
              mkdir -m 0755 -p "$(dirname ${key})"
              rm -f ${key}
              ${config.programs.ssh.package}/bin/ssh-keygen -q -t ed25519 -N "" -C ${comment} -f ${key}
            fi
          '';
        };
      }
      (lib.optionalAttrs hasBackend.agenix {
        age.identityPaths = lib.mkDefault cfg.identityPaths;
        system.activationScripts.agenixNewGeneration = afterHostKey;
      })
      (lib.optionalAttrs hasBackend.sops {
        sops.age.sshKeyPaths = lib.mkDefault cfg.identityPaths;
        system.activationScripts.setupSecrets = afterHostKey;
        system.activationScripts.setupSecretsForUsers = afterHostKey;
      })
    ]
  );
}
