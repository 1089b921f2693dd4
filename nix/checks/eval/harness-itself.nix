# SPDX-License-Identifier: MIT
# The harness: it evaluates whole systems, and shows what is wrong with one.
{
  lib,
  harness,
  ...
}:
let
  bootable = {
    boot.loader.grub.device = "/dev/vda";
    fileSystems."/" = {
      device = "/dev/vda1";
      fsType = "ext4";
    };
    networking.hostName = "web-01";
    system.stateVersion = "24.11";
  };
  host = harness.nixos {
    modules = [
      bootable
      (
        { pkgs, ... }:
        {
          services.openssh.enable = true;
          systemd.services.probe = {
            path = [ pkgs.curl ];
            serviceConfig = {
              ExecStart = lib.getExe pkgs.hello;
              DynamicUser = true;
            };
          };
        }
      )
    ];
  };
  broken = harness.nixos {
    modules = [
      bootable
      {
        assertions = [
          {
            assertion = false;
            message = "set the thing";
          }
        ];
        warnings = [ "mind the thing" ];
      }
    ];
  };
  argument = harness.nixos {
    modules = [
      bootable
      ({ anything, ... }: { networking.domain = anything; })
    ];
    specialArgs.anything = "example.org";
    system = "aarch64-linux";
  };
  toml = (harness.pkgs.formats.toml { }).generate "x.toml" {
    a = 1;
    b = [ "x" ];
    t.c = true;
    t.inner.d = "e";
    none = null;
  };
  onDarwin =
    test:
    if harness.darwin == null then
      { skip = "NIX_DARWIN is not set"; }
    else
      test (
        harness.darwin {
          modules = [
            {
              networking.hostName = "mac-01";
              system.stateVersion = 5;
            }
          ];
        }
      );
in
{
  "a host evaluates to its toplevel" =
    lib.hasInfix "nixos-system-web-01" host.toplevel && host.failedAssertions == [ ];
  "unit texts are those of NixOS" =
    lib.hasInfix "DynamicUser=true" host.config.systemd.units."probe.service".text;
  "the firewall opens what a module asks for" = {
    expr = host.config.networking.firewall.allowedTCPPorts;
    expected = [ 22 ];
  };
  "failed assertions are listed" = {
    expr = broken.failedAssertions;
    expected = [ "set the thing" ];
  };
  "a failed assertion fails the toplevel" = !(builtins.tryEval broken.toplevel).success;
  "warnings are listed" = {
    expr = broken.warnings;
    expected = [ "mind the thing" ];
  };
  "special arguments and the system reach the modules" = {
    expr = {
      inherit (argument.config.networking) domain;
      inherit (argument.pkgs.stdenv.hostPlatform) system;
    };
    expected = {
      domain = "example.org";
      system = "aarch64-linux";
    };
  };
  "generated TOML can be read" =
    if !(toml ? text) then
      { skip = "what real packages hold is not known at evaluation"; }
    else
      {
        expr = builtins.fromTOML toml.text;
        expected = {
          a = 1;
          b = [ "x" ];
          t = {
            c = true;
            inner.d = "e";
          };
        };
      };
  "a Mac evaluates to its toplevel" = onDarwin (mac: lib.hasInfix "darwin-system" mac.toplevel);
}
