# SPDX-License-Identifier: MIT
# Scope secrets (nix-darwin): the host key, which is created before agenix or sops-nix decrypt with it.
{
  config,
  lib,
  options,
  ...
}:
let
  cfg = config.nixfleet.secrets;
  hasBackend = {
    agenix = options ? age;
    sops = options ? sops;
  };
  inherit (import ../../lib/priorities.nix lib) chosen;
  isSet = options.nixfleet.secrets.identityPaths.highestPrio < 1200;
  identities = lib.mkIf isSet (chosen cfg.identityPaths);
  key = lib.escapeShellArg cfg.hostKeyPath;
in
{
  _class = "darwin";

  imports = [ ../options/secrets.nix ];

  options.nixfleet.secrets.hostKeyPath = lib.mkOption {
    default = "/etc/ssh/ssh_host_ed25519_key";
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = [
          {
            assertion = cfg.backend == null || hasBackend.${cfg.backend};
            message = "nixfleet.secrets.backend is \"${toString cfg.backend}\" but its module is not part of this host. Add ${
              if cfg.backend == "sops" then "sops-nix.darwinModules.sops" else "agenix.darwinModules.default"
            } to its modules.";
          }
          {
            assertion = cfg.identityPaths != [ ];
            message = "nixfleet.secrets.identityPaths is empty, so no secret could be decrypted. Leave it at its default or name a private key.";
          }
        ];

        # macOS creates host keys only at the first SSH connection.
        system.activationScripts.preActivation.text = ''
          if [ ! -s ${key} ]; then
            mkdir -p "$(dirname ${key})"
            /usr/bin/ssh-keygen -q -t ed25519 -N "" -f ${key}
          fi
        '';
      }
      (lib.optionalAttrs hasBackend.agenix { age.identityPaths = identities; })
      (lib.optionalAttrs hasBackend.sops { sops.age.sshKeyPaths = identities; })
    ]
  );
}
