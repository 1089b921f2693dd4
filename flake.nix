{
  # SPDX-License-Identifier: MIT
  description = "Fleet manager for NixOS and macOS machines: declarative hosts, staged rollouts, signed releases";

  # The only input. What else a host uses (disko, home-manager, nix-darwin, ...) is the fleet's own.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      modules = import ./nix/modules;
      scopes = import ./nix/scopes;
      # Older Nix wants functions or sets where a path would do; the path inside keeps a module that
      # is imported twice one module.
      asModules = lib.mapAttrs (_: path: { imports = [ path ]; });

      linux = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      # Those that this Nixpkgs has: 26.11 has dropped x86_64-darwin.
      everywhere = lib.intersectLists lib.systems.flakeExposed (
        linux
        ++ [
          "aarch64-darwin"
          "x86_64-darwin"
        ]
      );
      eachOf = systems: make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      each = eachOf everywhere;
      programsFor = pkgs: import ./nix/packages { inherit pkgs; };
    in
    {
      lib = import ./nix/lib { inherit nixpkgs; };

      nixosModules = asModules (modules.nixosModules // scopes.nixosModules);
      darwinModules = asModules (modules.darwinModules // scopes.darwinModules);
      inherit (scopes) homeModules scopes;

      overlays.default = import ./nix/packages/overlay.nix;

      packages = each (
        pkgs:
        let
          available = lib.filterAttrs (_: lib.meta.availableOn pkgs.stdenv.hostPlatform) (programsFor pkgs);
        in
        available
        // {
          default = available.nixfleet;
          docs = pkgs.runCommand "nixfleet-docs" { } "cp -r ${./docs} $out";
        }
      );

      apps = each (pkgs: import ./nix/apps.nix { inherit pkgs self; });
      checks = eachOf linux (pkgs: import ./nix/checks { inherit pkgs self nixpkgs; });
      devShells = each (pkgs: {
        default = import ./nix/shell.nix { inherit pkgs; };
      });
      formatter = each (pkgs: pkgs.nixfmt-tree or pkgs.nixfmt-rfc-style);

      templates = import ./nix/templates // {
        default = self.templates.standalone;
      };
    };
}
