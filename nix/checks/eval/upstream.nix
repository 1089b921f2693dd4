# SPDX-License-Identifier: MIT
# Each option of NixOS that our modules set is there, under that name, in each release that we are for: held
# against lists of names and types (../upstream/nixos-RELEASE.json, which `make upstream` writes). The list of 25.11
# is from that release's manual; what was not to be read there is marked as unread.
{
  lib,
  harness,
  root,
}:
let
  folder = root + "/nix/checks/upstream";
  releases = [
    "24.11"
    "25.05"
    "25.11"
    "26.05"
  ];
  set = import (folder + "/set.nix") { inherit lib harness root; };
  names = lib.attrNames set;

  # The modules take the names that there are: nix/modules/cache-server.nix and nix/roles/server.nix.
  adapts = name: lib.any (prefix: lib.hasPrefix prefix name) [
    "services.harmonia."
    "systemd.watchdog."
  ];

  # With the oldest release our hosts evaluate, so there each module sets what has no default.
  oldest = builtins.fromJSON (builtins.readFile (folder + "/nixos-${lib.head releases}.json"));
  isMissing = list: name: list.${name}.required or false && !set ? ${name} && !(oldest.${name}.required or false);

  # What LIST says against the options that we set.
  remarks =
    list:
    lib.concatMap (
      name:
      let
        listed = list.${name} or null;
      in
      if listed.unread or false then
        [ ]
      else if listed ? renamed then
        [ "${name} is now ${listed.renamed}" ]
      else if listed == null then
        [ "${name} is not there" ]
      else
        [ ]
    ) (lib.filter (name: !adapts name) names)
    ++ map (name: "${name} has no default, and we do not set it") (lib.filter (isMissing list) (lib.attrNames list));

  testOf =
    release:
    let
      file = folder + "/nixos-${release}.json";
      list = builtins.fromJSON (builtins.readFile file);
    in
    lib.nameValuePair "NixOS ${release} has the options that we set" (
      if !builtins.pathExists file then
        { skip = "there is no list of NixOS ${release} yet; make upstream NIXPKGS=... writes it"; }
      else if harness.inputs.disko == null || harness.inputs.home-manager == null || harness.inputs.impermanence == null then
        { skip = "INPUTS lacks disko, home-manager or impermanence"; }
      else
        {
          expr = remarks list;
          expected = [ ];
        }
    );
  # A list as it would be after changes.
  changed = {
    expr =
      remarks (
        removeAttrs (lib.genAttrs names (_: { required = false; })) [ "services.openssh.enable" ]
        // {
          "networking.hostId".renamed = "networking.id";
          "services.grafana.secret".required = true;
          "services.openssh.settings".unread = true;
          "services.harmonia.enable".renamed = "services.harmonia.cache.enable";
          "systemd.watchdog.runtimeTime".renamed = "systemd.settings.Manager.RuntimeWatchdogSec";
        }
      );
    expected = [
      "networking.hostId is now networking.id"
      "services.openssh.enable is not there"
      "services.grafana.secret has no default, and we do not set it"
    ];
  };

  # The lib with module systems that differ in what an option without default and definition is.
  requiredWith =
    empty:
    import (folder + "/required.nix") {
      lib = lib // {
        evalModules = _: { config.probe = if empty then null else throw "no value defined"; };
      };
    };
in
lib.listToAttrs (map testOf releases)
// {
  "a change of NixOS is named" =
    if harness.inputs.disko == null then { skip = "INPUTS has no disko"; } else changed;
  "an option whose type has an empty value is required only with a lib that does not use it" = {
    expr =
      map (required: map (type: required (lib.mkOption { inherit type; })) (with lib.types; [ (nullOr str) str ])) [
        (requiredWith false)
        (requiredWith true)
      ]
      ++ [ (requiredWith false (lib.mkOption { type = lib.types.str; default = ""; })) ];
    expected = [
      [ true true ]
      [ false true ]
      false
    ];
  };
  "what we set is found, also inside users, jobs and units" = {
    expr = lib.subtractLists names [
      "boot.loader.systemd-boot.enable"
      "services.openssh.enable"
      "services.prometheus.scrapeConfigs"
      "users.users.<name>.openssh.authorizedKeys.keys"
      "systemd.services.<name>.serviceConfig"
      "services.restic.backups.<name>.paths"
    ];
    expected = [ ];
  };
}
