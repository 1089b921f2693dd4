# SPDX-License-Identifier: MIT
# The templates of `nix flake init -t github:arcanesys/nixfleet#NAME`.
{
  standalone = {
    path = ./standalone;
    description = "One NixOS machine, installed with nixos-anywhere and ready to join a fleet";
    welcomeText = ''
      Edit the user and the locale in `flake.nix`, the SSH key in `configuration.nix` and the disk in
      `disk-config.nix`, then run:

          nixos-anywhere --generate-hardware-config nixos-generate-config ./hardware-configuration.nix \
            --flake .#myhost root@<ip>
    '';
  };
  batch = {
    path = ./batch;
    description = "Many identical NixOS machines";
    welcomeText = ''
      Edit the list of machines in `flake.nix`, the SSH key in `node.nix` and the disk in `disk-config.nix`,
      then install each machine with `nixos-anywhere --flake .#node-01 root@<ip>`.
    '';
  };
  fleet = {
    path = ./fleet;
    description = "Several NixOS machines with a control plane and staged rollouts";
    welcomeText = ''
      Edit `operators.nix`, and the disk of each machine in `hosts/`, then install each machine with
      `nixos-anywhere --flake .#cp-01 root@<ip>`. `nixfleet trust init` creates `trust/root.json`, which
      the machines need to join the fleet.
    '';
  };
  demo = {
    path = ../demo;
    description = "Six machines under QEMU that show a whole fleet at work";
    welcomeText = "Put your SSH key into `operators.nix` and read `README.md`.";
  };
}
