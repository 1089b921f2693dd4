# SPDX-License-Identifier: MIT
# mkVmApps: apps that build, start, stop, clean and test the hosts of a fleet as virtual machines.
#   apps.x86_64-linux = nixfleet.lib.mkVmApps { inherit pkgs; hosts = self.nixosConfigurations; };
{
  pkgs,
  # nixosConfigurations of the flake. Only the names are used; the apps build what they start.
  # null: the hosts of the flake in the working directory, or of --flake.
  hosts ? null,
}:
let
  inherit (pkgs) lib;
  verbs = {
    build = "Build hosts as virtual machines";
    start = "Start hosts as virtual machines";
    stop = "Power virtual machines off";
    clean = "Remove the disks of virtual machines";
    test = "Start a host from an empty disk, and check that no unit failed";
  };

  program = pkgs.writeShellApplication {
    name = "nixfleet-vm";
    runtimeInputs = [
      pkgs.coreutils
      pkgs.e2fsprogs
      pkgs.gnugrep
      pkgs.gnused
      pkgs.nix
      pkgs.openssh
      pkgs.qemu
      pkgs.socat
      pkgs.util-linux
    ];
    text = ''
      ${lib.optionalString (hosts != null)
        "export NIXFLEET_VM_HOSTS=${lib.escapeShellArg (toString (lib.attrNames hosts))}"
      }
      ${builtins.readFile ./vm.sh}
    '';
  };
in
lib.mapAttrs' (
  verb: description:
  lib.nameValuePair "${verb}-vm" {
    type = "app";
    program = lib.getExe (
      pkgs.writeShellScriptBin "nixfleet-${verb}-vm" ''exec ${lib.getExe program} ${verb} "$@"''
    );
    meta = { inherit description; };
  }
) verbs
