# SPDX-License-Identifier: MIT
# The scopes by module class. The file's place decides the class: <name>.nix here is a NixOS module,
# darwin/<name>.nix a module for nix-darwin, home/<name>.nix one for home-manager. Every value is a path,
# so that importing a scope twice (by hand and by a role) declares its options once.
let
  modulesIn =
    dir:
    let
      files = builtins.attrNames (builtins.readDir dir);
      name = file: builtins.match "(.*)\\.nix" file;
      isModule = file: name file != null && file != "default.nix" && file != "flake.nix";
      modules = builtins.filter isModule files;
    in
    builtins.listToAttrs (
      map (file: {
        name = builtins.head (name file);
        value = dir + "/${file}";
      }) modules
    );

  roles = modulesIn ../roles;
  diskTemplates = builtins.mapAttrs (_: import) (modulesIn ../disks);
  scopes = modulesIn ./.;
  darwinScopes = modulesIn ./darwin;

  renamed =
    rename: attrs:
    builtins.listToAttrs (
      map (name: {
        name = rename name;
        value = attrs.${name};
      }) (builtins.attrNames attrs)
    );
in
{
  nixosModules =
    scopes
    // renamed (name: "role-${name}") roles
    // {
      nixos-base = ../platforms/nixos-base.nix;
    };
  darwinModules = darwinScopes // {
    darwin-base = ../platforms/darwin-base.nix;
  };
  homeModules = modulesIn ./home;

  # The names that fleets use: scopes.<scope>, scopes.roles.<role>, scopes.disk-templates.<template>.
  scopes = scopes // {
    inherit roles;
    disk-templates = diskTemplates;
  };
}
