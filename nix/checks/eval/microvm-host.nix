# SPDX-License-Identifier: MIT
# services.nixfleet-microvm-host: the bridge that microvm.nix guests join.
{
  lib,
  harness,
  root,
}:
let
  host =
    modules:
    harness.nixos {
      modules = modules ++ [
        (root + "/nix/modules/microvm-host.nix")
        {
          boot.loader.grub.device = "/dev/vda";
          fileSystems."/" = {
            device = "/dev/vda1";
            fsType = "ext4";
          };
          system.stateVersion = "24.11";
          services.nixfleet-microvm-host.enable = true;
        }
      ];
    };
  without = host [ ];
  withMicrovm =
    test:
    if harness.inputs.microvm == null then
      { skip = "INPUTS has no microvm.nix"; }
    else
      test (host [ harness.inputs.microvm.nixosModules.host ]);
in
{
  "guests get addresses on a bridge and reach the network" = withMicrovm (system: {
    expr = {
      inherit (system) failedAssertions;
      evaluates = lib.hasSuffix ".drv" system.toplevel;
      inherit (system.config.networking.nat) enable internalInterfaces;
      inherit (system.config.networking.firewall.interfaces.microbr) allowedUDPPorts;
      inherit (system.config.systemd.network.networks."10-nixfleet-microvm".networkConfig) DHCPServer;
      inherit (system.config.systemd.network.networks."11-nixfleet-microvm-guests".networkConfig) Bridge;
      waits = system.config.systemd.network.wait-online.enable;
    };
    expected = {
      failedAssertions = [ ];
      evaluates = true;
      enable = true;
      internalInterfaces = [ "microbr" ];
      allowedUDPPorts = [ 67 ];
      DHCPServer = true;
      Bridge = "microbr";
      waits = false;
    };
  });
  "without microvm.nix the error says what to import" = lib.any (lib.hasInfix "inputs.microvm.nixosModules.host") without.failedAssertions;
}
