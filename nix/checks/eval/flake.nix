# SPDX-License-Identifier: MIT
# flake.nix and default.nix: their outputs exist under the documented names.
{
  lib,
  harness,
  root,
}:
let
  self = (import (root + "/flake.nix")).outputs {
    inherit self;
    inherit (harness) nixpkgs;
  } // {
    outPath = toString root;
  };
  # The flake with a Nixpkgs that has only SYSTEMS, as one has after it dropped a platform.
  withSystems =
    systems:
    let
      later = (import (root + "/flake.nix")).outputs {
        self = later // {
          outPath = toString root;
        };
        nixpkgs = harness.nixpkgs // {
          lib = lib // {
            systems = lib.systems // {
              flakeExposed = systems;
            };
          };
          legacyPackages = lib.getAttrs systems harness.nixpkgs.legacyPackages;
        };
      };
    in
    later;
  perSystem = [
    "apps"
    "devShells"
    "formatter"
    "packages"
  ];
  # The programs with a buildGoModule that returns its arguments, and a Nixpkgs with these versions of Go.
  programsWith =
    versions:
    import (root + "/nix/packages") {
      pkgs =
        harness.pkgs
        // lib.mapAttrs (name: version: { inherit name version; }) versions
        // {
          buildGoModule = lib.makeOverridable ({ go }: args: args // { inherit go; }) {
            go.name = "go";
          };
        };
    };
  goMod = builtins.readFile (root + "/go.mod");
  required = lib.head (builtins.match ".*\ngo ([0-9.]+)\n.*" goMod);
  classic = import (root + "/default.nix") { inherit (harness) pkgs; };
  has = names: set: lib.subtractLists (lib.attrNames set) names;
  scopes = [
    "backup"
    "base"
    "compliance"
    "disko"
    "firewall"
    "generation-label"
    "hardware"
    "home-manager"
    "impermanence"
    "monitoring"
    "monitoring-server"
    "o11y"
    "operators"
    "remote-builders"
    "secrets"
    "terminal-compat"
    "vpn"
  ];
  roles = [
    "endpoint"
    "microvm-guest"
    "server"
    "workstation"
  ];
  services = [
    "agent"
    "cache"
    "cache-server"
    "control-plane"
    "core"
    "default"
    "microvm-host"
  ];
in
{
  "modules" = {
    expr = has (services ++ scopes ++ map (role: "role-${role}") roles) self.nixosModules;
    expected = [ ];
  };
  "modules of nix-darwin" = {
    expr = has [
      "agent"
      "base"
      "cache"
      "core"
      "default"
      "operators"
    ] self.darwinModules;
    expected = [ ];
  };
  "scopes by the names of nix/scopes" = {
    expr = has (scopes ++ [ "roles" "disk-templates" ]) self.scopes ++ has roles self.scopes.roles;
    expected = [ ];
  };
  "disk templates" = {
    expr = lib.attrNames self.scopes.disk-templates;
    expected = [
      "btrfs"
      "btrfs-bios"
      "btrfs-impermanence"
      "btrfs-impermanence-bios"
      "ext4"
      "hybrid"
      "luks-btrfs-impermanence"
      "mirror"
      "zfs"
    ];
  };
  "packages, apps, checks, shells and formatters evaluate" = {
    expr = map (lib.hasSuffix ".drv") (
      map (package: package.drvPath) (
        lib.attrValues self.packages.x86_64-linux
        ++ lib.attrValues self.packages.aarch64-darwin
        ++ lib.attrValues self.checks.x86_64-linux
        ++ [
          self.devShells.x86_64-linux.default
          self.formatter.x86_64-linux
        ]
      )
    );
    expected = map (_: true) (
      lib.attrNames self.packages.x86_64-linux
      ++ lib.attrNames self.packages.aarch64-darwin
      ++ lib.attrNames self.checks.x86_64-linux
      ++ [
        "shell"
        "formatter"
      ]
    );
  };
  "programs by name" = {
    expr = lib.attrNames self.packages.x86_64-linux;
    expected = [
      "default"
      "docs"
      "nixfleet"
      "nixfleet-agent"
      "nixfleet-control-plane"
    ];
  };
  "each program has its source" = {
    expr = lib.filterAttrs (
      _: program: lib.any (folder: !builtins.pathExists (root + "/${folder}/main.go")) program.subPackages
    ) (programsWith { go = required; });
    expected = { };
  };
  "programs are built with a Go that go.mod accepts" = {
    expr = map (versions: (programsWith versions).nixfleet.go.name) [
      { go = required; }
      {
        go = "1.20.14";
        "go_${lib.replaceStrings [ "." ] [ "_" ] (lib.versions.majorMinor required)}" = required;
      }
    ];
    expected = [
      "go"
      "go_${lib.replaceStrings [ "." ] [ "_" ] (lib.versions.majorMinor required)}"
    ];
  };
  "a Nixpkgs without one is an error that says what to do" = {
    expr = (programsWith { go = "1.20.14"; }).nixfleet.pname;
    throws = "nixfleet needs Go ${required} or newer to build";
  };
  "every platform has every output, and where Nixpkgs has dropped one there is none" =
    let
      systemsOf = flake: map (output: lib.attrNames (builtins.mapAttrs (_: builtins.attrNames) flake.${output})) perSystem;
      later = [
        "aarch64-darwin"
        "aarch64-linux"
        "x86_64-linux"
      ];
    in
    {
      expr = {
        now = systemsOf self;
        later = systemsOf (withSystems later);
      };
      expected = {
        now = map (_: lib.naturalSort (later ++ [ "x86_64-darwin" ])) perSystem;
        later = map (_: later) perSystem;
      };
    };
  "apps start a program" = lib.all (app: app.type == "app" && lib.hasPrefix "/" app.program) (
    lib.attrValues self.apps.x86_64-linux
  );
  "the overlay has the programs" = {
    expr = has [
      "nixfleet"
      "nixfleet-agent"
      "nixfleet-control-plane"
    ] (self.overlays.default harness.pkgs harness.pkgs);
    expected = [ ];
  };
  "templates are folders with a flake" = {
    expr = lib.filterAttrs (_: template: !builtins.pathExists (template.path + "/flake.nix")) self.templates;
    expected = { };
  };
  "an installer lets the operator in" =
    (self.lib.mkInstaller { sshKeys = [ "ssh-ed25519 AAAA" ]; })
    .config.users.users.root.openssh.authorizedKeys.keys == [ "ssh-ed25519 AAAA" ];
  "an installer without a key is refused" = {
    expr = (self.lib.mkInstaller { sshKeys = [ ]; }).config.networking.hostName;
    throws = "sshKeys must hold at least one public key";
  };
  "without flakes the outputs are the same" = {
    expr = {
      modules = lib.attrNames classic.nixosModules == lib.attrNames self.nixosModules;
      host =
        (classic.lib.mkHost {
          hostName = "web-01";
          platform = "x86_64-linux";
        }).config.networking.hostName;
    };
    expected = {
      modules = true;
      host = "web-01";
    };
  };
}
