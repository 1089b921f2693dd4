# SPDX-License-Identifier: MIT
# The reference of options as Markdown, made from the options themselves: one page for each module, for
# NixOS and nix-darwin together. generate.sh writes the pages.
{ root, harness }:
let
  built = import ../checks/eval/harness harness;
  inherit (built) lib;
  modules = import (root + "/nix/modules");
  scopes = import (root + "/nix/scopes");

  nixos = built.nixos { modules = lib.attrValues (modules.nixosModules // scopes.nixosModules); };
  mac = built.darwin { modules = lib.attrValues (modules.darwinModules // scopes.darwinModules); };

  isOurs = declaration: lib.hasPrefix "${toString root}/" (toString declaration);
  # Look only at what can be ours: to describe options of Nixpkgs may need packages.
  candidates = options: {
    inherit (options) hostSpec nixfleet;
    services = lib.filterAttrs (name: _: lib.hasPrefix "nixfleet-" name) options.services;
  };
  ours =
    options:
    lib.filter (option: (option.visible or true) != false && !option.internal && lib.any isOurs option.declarations) (
      lib.optionAttrSetToDocList (candidates options)
    );
  byName = options: lib.listToAttrs (map (option: lib.nameValuePair option.name option) options);
  ofNixos = byName (ours nixos.options);
  ofMac = byName (ours mac.options);

  # nixfleet.backup.jobs.<name>.paths -> nixfleet.backup, hostSpec.home -> hostSpec
  pageOf =
    name:
    let
      parts = lib.splitString "." name;
    in
    if lib.head parts == "hostSpec" then "hostSpec" else lib.concatStringsSep "." (lib.take 2 parts);

  # Only the renderer of Nixpkgs' manual understands its roles.
  plain = builtins.replaceStrings [ "{option}" "{manpage}" "{file}" "{command}" "{var}" "{env}" ] [ "" "" "" "" "" "" ];
  textOf = value: lib.removeSuffix "\n" (if builtins.isAttrs value then value.text else value);
  code =
    label: value:
    let
      text = textOf value;
    in
    if value._type or "" == "literalMD" then
      "${label}: ${plain text}"
    else if lib.hasInfix "\n" text then
      "${label}:\n\n```nix\n${text}\n```"
    else
      "${label}: `${text}`";

  render =
    name:
    let
      option = ofNixos.${name} or ofMac.${name};
      systems = lib.optional (ofNixos ? ${name}) "NixOS" ++ lib.optional (ofMac ? ${name}) "macOS";
      declarations = lib.unique (
        map (declaration: lib.removePrefix "${toString root}/" (toString declaration)) (
          lib.filter isOurs (ofNixos.${name}.declarations or [ ] ++ ofMac.${name}.declarations or [ ])
        )
      );
    in
    lib.concatStringsSep "\n\n" (
      [
        "## `${name}`"
        (plain (textOf option.description))
        "Type: ${option.type}"
      ]
      ++ lib.optional (option ? default) (code "Default" option.default)
      ++ lib.optional (option ? example) (code "Example" option.example)
      ++ lib.optional option.readOnly "Read only."
      ++ [ "On ${lib.concatStringsSep " and " systems}. Declared in ${lib.concatMapStringsSep ", " (file: "`${file}`") declarations}." ]
    )
    + "\n";

  names = lib.attrNames (ofNixos // ofMac);
  pages = lib.groupBy pageOf names;
  generated = "<!-- Made from the options by nix/docs/generate.sh; edit those. -->\n";
  page = title: options: "${generated}# ${title}\n\n${lib.concatMapStringsSep "\n" render options}";
  index =
    "${generated}# Options\n\nBy module, with the number of options.\n\n"
    + lib.concatStrings (
      lib.mapAttrsToList (title: options: "- [${title}](${title}.md), ${toString (lib.length options)}\n") pages
    );

  files = lib.mapAttrs' (title: options: lib.nameValuePair "${title}.md" (page title options)) pages // {
    "README.md" = index;
  };
in
# One text, because an evaluation without a store can return only that. A line with the name is before
# each page.
lib.concatStrings (lib.mapAttrsToList (name: text: "<!-- page: ${name} -->\n${text}") files)
