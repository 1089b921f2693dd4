# SPDX-License-Identifier: MIT
# Scope secrets: the host key exists before agenix or sops-nix decrypt with it.
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
    withInput
    ;
  scopes = import (root + "/nix/scopes");

  with' =
    secrets: modules:
    host (
      [
        scopes.nixosModules.secrets
        {
          nixfleet.secrets = {
            enable = true;
          } // secrets;
        }
      ]
      ++ modules
    );
  good = with' { } [ { services.openssh.enable = true; } ];
  hostKey = "/etc/ssh/ssh_host_ed25519_key";

  # Whether activation runs FIRST before SECOND.
  inOrder =
    first: second: evaluation:
    let
      script = evaluation.config.system.activationScripts.script;
      before = lib.head (lib.splitString second script);
    in
    lib.hasInfix second script && lib.hasInfix first before;
  keygen = "ssh-keygen -q -t ed25519";
in
{
  "evaluates" = good.failedAssertions == [ ] && lib.hasSuffix ".drv" good.toplevel;
  "importing it changes nothing" = {
    expr = (host [ scopes.nixosModules.secrets ]).toplevel;
    expected = (host [ ]).toplevel;
  };
  "sshd keeps its keys, also the RSA key, and makes them itself" =
    good.config.services.openssh.hostKeys == (host [ { services.openssh.enable = true; } ]).config.services.openssh.hostKeys
    && lib.length good.config.services.openssh.hostKeys == 2
    && good.config.nixfleet.secrets.hostKeyPath == hostKey
    && !lib.hasInfix keygen good.config.system.activationScripts.script;
  "a host without sshd gets its key from a unit" =
    lib.hasInfix "[ ! -s ${lib.escapeShellArg hostKey} ]" (with' { } [ ]).config.systemd.services.nixfleet-host-key.script;
  "where NixOS makes the key of a host without sshd, it does" =
    let
      # NixOS 26.05 and later.
      later =
        (with' { } [
          {
            options = lib.optionalAttrs (!(good.options.services.openssh ? generateHostKeys)) {
              services.openssh.generateHostKeys = lib.mkOption { type = lib.types.bool; };
            };
          }
        ]).config;
    in
    later.services.openssh.generateHostKeys && !(later.systemd.services ? nixfleet-host-key);
  "the host's own keys are followed" = {
    expr =
      (with' { } [
        {
          services.openssh.enable = true;
          services.openssh.hostKeys = [
            {
              type = "rsa";
              path = "/keep/rsa";
            }
            {
              type = "ed25519";
              path = "/keep/ed25519";
            }
          ];
        }
      ]).config.nixfleet.secrets.hostKeyPath;
    expected = "/keep/ed25519";
  };
  "with impermanence the key is on the persistent root" = {
    expr =
      (with' { } [
        { services.openssh.enable = true; }
        {
          options.nixfleet.impermanence = {
            enable = lib.mkOption { default = true; };
            persistRoot = lib.mkOption { default = "/keep"; };
          };
        }
      ]).config.services.openssh.hostKeys;
    expected = [
      {
        type = "ed25519";
        path = "/keep/etc/ssh/ssh_host_ed25519_key";
      }
      {
        type = "rsa";
        bits = 4096;
        path = "/keep/etc/ssh/ssh_host_rsa_key";
      }
    ];
  };
  "agenix decrypts with it, afterwards" = withInput "agenix" (
    agenix:
    let
      evaluation = with' { backend = "agenix"; } [
        agenix.nixosModules.default
        { age.secrets.token.file = ./scope-secrets.nix; }
      ];
    in
    evaluation.config.age.identityPaths == [ hostKey ]
    && (with' { identityPaths = [ "/root/key" ]; } [ agenix.nixosModules.default ]).config.age.identityPaths == [ "/root/key" ]
    && evaluation.failedAssertions == [ ]
    && inOrder keygen "[agenix] decrypting secrets" evaluation
  );
  "with sshd, agenix takes its keys" = withInput "agenix" (agenix: {
    expr =
      (with' { } [
        agenix.nixosModules.default
        { services.openssh.enable = true; }
      ]).config.age.identityPaths;
    expected = [
      "/etc/ssh/ssh_host_rsa_key"
      hostKey
    ];
  });
  "agenix without a secret is not an error" = withInput "agenix" (
    agenix: lib.hasSuffix ".drv" (with' { } [ agenix.nixosModules.default ]).toplevel
  );
  "sops-nix decrypts with it, afterwards" = withInput "sops-nix" (
    sops-nix:
    let
      evaluation = with' { backend = "sops"; } [
        sops-nix.nixosModules.sops
        (
          { pkgs, ... }:
          {
            sops = {
              # The real package needs a source that is not evaluated here.
              package = pkgs.hello;
              validateSopsFiles = false;
              defaultSopsFile = ./scope-secrets.nix;
              secrets.token = { };
            };
          }
        )
      ];
    in
    evaluation.config.sops.age.sshKeyPaths == [ hostKey ]
    && inOrder keygen "setting up secrets..." evaluation
  );
  "fires: a backend that is not imported" = fires "Add sops-nix.nixosModules.sops" (with' { backend = "sops"; } [ ]);
  "fires: no identity" = fires "nixfleet.secrets.identityPaths is empty" (with' { identityPaths = [ ]; } [ ]);
  "fires: the key's file system is mounted too late" = fires "Set fileSystems.\"/keep\".neededForBoot = true" (
    with' { hostKeyPath = "/keep/ssh/key"; } [
      {
        fileSystems."/keep" = {
          device = "/dev/vda2";
          fsType = "ext4";
        };
      }
    ]
  );
  "a Mac also creates the key" =
    onMac
      [
        scopes.darwinModules.secrets
        { nixfleet.secrets.enable = true; }
      ]
      (
        mac:
        lib.hasInfix keygen mac.config.system.activationScripts.preActivation.text && mac.failedAssertions == [ ]
      );
  "a Mac: fires: a backend that is not imported" =
    onMac
      [
        scopes.darwinModules.secrets
        {
          nixfleet.secrets = {
            enable = true;
            backend = "agenix";
          };
        }
      ]
      (fires "Add agenix.darwinModules.default");
  "a Mac: fires: no identity" =
    onMac
      [
        scopes.darwinModules.secrets
        {
          nixfleet.secrets = {
            enable = true;
            identityPaths = [ ];
          };
        }
      ]
      (fires "nixfleet.secrets.identityPaths is empty");
}
