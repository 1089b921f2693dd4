# SPDX-License-Identifier: MIT
# mkHost: what it adds to a plain system (nothing, until something is enabled), what it passes
# through, and its errors.
{
  lib,
  harness,
  root,
}:
let
  inherit (import (root + "/nix/lib") { inherit (harness) nixpkgs; }) mkHost;

  hardware = {
    boot.loader.grub.device = "/dev/vda";
    fileSystems."/" = {
      device = "/dev/vda1";
      fsType = "ext4";
    };
  };
  fleet = {
    self.rev = "fleet-revision";
    inputs = {
      inherit (harness) nixpkgs nix-darwin;
    };
  };
  host =
    args:
    harness.view (
      mkHost (
        {
          hostName = "web-01";
          platform = "x86_64-linux";
          stateVersion = "24.11";
          specialArgs = fleet;
        }
        // args
        // {
          modules = [ hardware ] ++ args.modules or [ ];
        }
      )
    );

  bare = host { };
  plain = harness.nixos {
    specialArgs = fleet;
    modules = [
      hardware
      {
        networking.hostName = "web-01";
        system.stateVersion = "24.11";
      }
    ];
  };
  described = host {
    hostSpec = {
      userName = "alice";
      timeZone = "Europe/Paris";
      locale = "fr_FR.UTF-8";
      keyboardLayout = "fr";
      rootHashedPasswordFile = "/run/secrets/root";
    };
    modules = [
      ({ self, inputs, ... }: {
        options.hostSpec.rack = lib.mkOption { type = lib.types.str; };
        config = {
          hostSpec.rack = "b7";
          networking.domain = "${self.rev}.example.org";
          environment.etc.inputs.text = lib.concatStringsSep " " (lib.attrNames inputs);
          time.timeZone = "UTC";
        };
      })
    ];
  };

  # The systems' options differ only below these two.
  optionNames =
    system:
    lib.attrNames system.options
    ++ map (name: "services.${name}") (lib.attrNames system.options.services);
  onMac =
    test:
    if harness.darwin == null then
      { skip = "NIX_DARWIN is not set"; }
    else
      test (
        harness.view (mkHost {
          hostName = "mac-01";
          platform = "aarch64-darwin";
          stateVersion = 5;
          specialArgs = fleet;
          hostSpec.userName = "alice";
        })
      );
in
{
  "with nothing enabled it is the plain system, to the store path" = {
    expr = bare.toplevel;
    expected = plain.toplevel;
  };
  "its options are those of NixOS and ours" = {
    expr = lib.subtractLists (optionNames plain) (optionNames bare);
    expected = [
      "hostSpec"
      "services.nixfleet-agent"
      "services.nixfleet-cache"
      "services.nixfleet-cache-server"
      "services.nixfleet-control-plane"
    ];
  };
  "facts of hostSpec reach NixOS, and the host's own assignment overrides them" = {
    expr = {
      inherit (described.config.i18n) defaultLocale;
      inherit (described.config.console) keyMap;
      inherit (described.config.time) timeZone;
      inherit (described.config.users.users.root) hashedPasswordFile;
      inherit (described.config.hostSpec)
        home
        hostName
        isDarwin
        rack
        ;
    };
    expected = {
      defaultLocale = "fr_FR.UTF-8";
      keyMap = "fr";
      timeZone = "UTC";
      hashedPasswordFile = "/run/secrets/root";
      home = "/home/alice";
      hostName = "web-01";
      isDarwin = false;
      rack = "b7";
    };
  };
  "the fleet's self and inputs are passed through" = {
    expr = [
      described.config.networking.domain
      described.config.environment.etc.inputs.text
    ];
    expected = [
      "fleet-revision.example.org"
      "nix-darwin nixpkgs"
    ];
  };
  "a guest has virtio drivers and a serial console" =
    let
      guest = (host { isVm = true; }).config;
    in
    lib.elem "virtio_pci" guest.boot.initrd.availableKernelModules
    && lib.elem "console=ttyS0,115200" guest.boot.kernelParams;
  "an argument is the user's own value: above a profile's default, below his assignment" = {
    expr =
      map
        (
          module:
          let
            inherit ((host { hostSpec.timeZone = "Europe/Paris"; modules = [ module ]; }).config) networking time;
          in
          "${networking.hostName} ${time.timeZone}"
        )
        [
          {
            networking.hostName = lib.mkDefault "";
            time.timeZone = lib.mkDefault "UTC";
          }
          {
            networking.hostName = "own";
            time.timeZone = "UTC";
          }
        ];
    expected = [
      "web-01 Europe/Paris"
      "own UTC"
    ];
  };
  "another platform is another system" =
    (host { platform = "aarch64-linux"; }).pkgs.stdenv.hostPlatform.system == "aarch64-linux";
  "an unknown platform is refused, with a list of the known ones" = {
    expr = mkHost {
      hostName = "x";
      platform = "riscv64-linux";
    };
    throws = "supported are aarch64-darwin, aarch64-linux, x86_64-darwin, x86_64-linux";
  };
  "a Mac without nix-darwin is refused, with the remedy" = {
    expr = mkHost {
      hostName = "x";
      platform = "aarch64-darwin";
    };
    throws = "needs nix-darwin; add it to the flake's inputs";
  };
  "a Mac evaluates, with its own home" = onMac (
    mac: mac.failedAssertions == [ ] && mac.config.hostSpec.home == "/Users/alice" && lib.hasInfix "darwin-system" mac.toplevel
  );
}
