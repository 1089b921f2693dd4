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
      "luks-btrfs-impermanence"
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
      "compliance-check"
      "default"
      "docs"
      "nixfleet"
      "nixfleet-agent"
      "nixfleet-control-plane"
    ];
  };
  "apps start a program" = lib.all (app: app.type == "app" && lib.hasPrefix "/" app.program) (
    lib.attrValues self.apps.x86_64-linux
  );
  "the overlay has the programs" = {
    expr = has [
      "nixfleet"
      "nixfleet-agent"
      "nixfleet-control-plane"
      "compliance-check"
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
