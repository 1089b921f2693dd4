# SPDX-License-Identifier: MIT
# `nix flake init -t github:arcanesys/nixfleet#NAME`.
{
  standalone = {
    path = ./standalone;
    description = "One NixOS machine, installed with nixos-anywhere and ready to join a fleet";
    welcomeText = ''
      Edit the user, the SSH key and the locale in `flake.nix` and the disk in `disk-config.nix`, then:

          nixos-anywhere --generate-hardware-config nixos-generate-config ./hardware-configuration.nix \
            --flake .#myhost root@<ip>
    '';
  };
  batch = {
    path = ./batch;
    description = "Many identical NixOS machines";
    welcomeText = ''
      Edit the SSH key and the list of machines in `flake.nix` and the disk in `disk-config.nix`, then
      install each with `nixos-anywhere --flake .#node-01 root@<ip>`.
    '';
  };
  fleet = {
    path = ./fleet;
    description = "Several NixOS machines with a control plane, rolled out in stages";
    welcomeText = ''
      Edit `operators.nix`, and the disk of each machine in `hosts/`, then install each with
      `nixos-anywhere --flake .#cp-01 root@<ip>`. `nixfleet trust init` makes `trust/root.json`,
      with which the machines join the fleet.
    '';
  };
  demo = {
    path = ../demo;
    description = "Six machines under QEMU that show a whole fleet at work";
    welcomeText = "Put your SSH key into `operators.nix` and read `README.md`.";
  };
}
