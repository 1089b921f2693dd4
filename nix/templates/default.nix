# SPDX-License-Identifier: MIT
# The templates of `nix flake init -t github:arcanesys/nixfleet#NAME`.
{
  standalone = {
    path = ./standalone;
    description = "One NixOS machine, installed with nixos-anywhere and ready to join a fleet";
    welcomeText = ''
      Edit the user and the locale in `flake.nix`, the SSH key in `configuration.nix` and the disk in
      `disk-config.nix`. In a git repository, run `git add -A`: Nix sees only files that git knows. Then:

          nix run github:nix-community/nixos-anywhere -- --flake .#myhost \
            --generate-hardware-config nixos-generate-config ./hardware-configuration.nix root@<ip>
    '';
  };
  batch = {
    path = ./batch;
    description = "Many identical NixOS machines";
    welcomeText = ''
      Edit the list of machines in `flake.nix`, the SSH key in `node.nix` and the disk in `disk-config.nix`.
      In a git repository, run `git add -A`: Nix sees only files that git knows. Then install each machine:

          nix run github:nix-community/nixos-anywhere -- --flake .#node-01 root@<ip>
    '';
  };
  fleet = {
    path = ./fleet;
    description = "Several NixOS machines with a control plane and staged rollouts";
    welcomeText = ''
      Put your SSH keys into `operators.nix`, name the disk of each machine in `hosts/`, and your domain
      instead of example.org in `common.nix`, `cache.nix`, `hosts/cp-01` and `nixfleet.toml`. Then follow
      docs/guide/fleet.md of NixFleet: it makes the fleet's keys, installs the control plane and then the
      other machines, and rolls a release out.
    '';
  };
  demo = {
    path = ../demo;
    description = "Six machines under QEMU that show a whole fleet at work";
    welcomeText = "Put your SSH key into `operators.nix` and read `README.md`.";
  };
}
