# SPDX-License-Identifier: MIT
# The texts that units.sh verifies: our units and configuration files, from a host that has them all.
{ root, harness }:
let
  built = import ./eval/harness harness;
  inherit (built) lib;
  inherit (import (root + "/nix/lib") { inherit (built) nixpkgs; }) mkHost;

  host = mkHost {
    hostName = "cp-01";
    platform = "x86_64-linux";
    stateVersion = "24.11";
    modules = [
      {
        boot.loader.grub.device = "/dev/vda";
        fileSystems."/" = {
          device = "/dev/vda1";
          fsType = "ext4";
        };
        services.nixfleet-agent = {
          enable = true;
          package = built.pkgs.hello;
          controlPlane.url = "https://fleet.example.org:8444";
          trust.rootFile = builtins.toFile "root.json" "{}";
          tags = [ "web" ];
          healthChecks = {
            systemd.nginx = { };
            http.front.url = "http://127.0.0.1/health";
            tcp.db.address = "127.0.0.1:5432";
            command.true.command = [ "/run/current-system/sw/bin/true" ];
          };
        };
        services.nixfleet-control-plane = {
          enable = true;
          package = built.pkgs.hello;
          trust.rootFile = builtins.toFile "root.json" "{}";
          backup.passphraseFile = "/run/secrets/backup";
        };
      }
    ];
  };

  ours = lib.filterAttrs (name: _: lib.hasPrefix "nixfleet-" name) host.config.systemd.units;
  textOf = name: host.config.environment.etc."nixfleet/${name}".source.unchecked.text or "";
in
lib.mapAttrs (_: builtins.unsafeDiscardStringContext) (
  lib.mapAttrs (_: unit: unit.text) ours
  // lib.genAttrs [ "agent.toml" "control-plane.toml" ] textOf
)
