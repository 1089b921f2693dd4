# SPDX-License-Identifier: MIT
# The options of NixOS that our modules set on the hosts of hosts.nix, as { NAME = { type; required; }; }. A
# name has <name> or * where an attribute set or a list has its members, as in the manual. Required: the option
# has no value by itself (required.nix), so that a host on which we enable its module and do not set it fails.
{
  lib,
  harness,
  root,
}:
let
  ours = file: lib.hasPrefix "${toString root}/nix/" (toString file) || lib.hasPrefix "the disk template" (toString file);
  hosts = lib.filterAttrs (_: modules: modules != [ ]) (import ./hosts.nix { inherit lib harness root; });

  # What mkIf, mkMerge and their like hold.
  bare =
    value:
    if !lib.isAttrs value then
      [ value ]
    else if value._type or "" == "merge" then
      lib.concatMap bare value.contents
    else if lib.elem (value._type or "") [ "if" "override" "order" ] then
      bare value.content
    else
      [ value ];

  describe = option: {
    type = option.type.description or option.type.name;
    required = isRequired option;
  };
  isRequired = import ./required.nix { inherit lib; };

  # The options below NAME that VALUES set, if TYPE has any.
  below =
    name: type: values:
    let
      members = lib.concatMap bare values;
      sub = type.getSubOptions [ ];
      kind = type.name or "";
      element = type.nestedTypes.elemType or null;
    in
    if lib.elem kind [ "attrsOf" "lazyAttrsOf" ] then
      below "${name}.<name>" element (lib.concatMap (value: lib.optionals (lib.isAttrs value) (lib.attrValues value)) members)
    else if kind == "listOf" then
      below "${name}.*" element (lib.concatMap (value: lib.optionals (lib.isList value) value) members)
    else if lib.elem kind [ "nullOr" "coercedTo" ] && (type.nestedTypes.elemType or type.nestedTypes.finalType or null) != null then
      below name (type.nestedTypes.elemType or type.nestedTypes.finalType) members
    else if kind == "submodule" then
      lib.concatMap (value: lib.optionals (lib.isAttrs value) (walk name sub value)) members
    else
      [ ];
  # Options of OPTIONS, at NAME, that the attribute set VALUE sets.
  walk =
    name: options: value:
    lib.concatLists (
      lib.mapAttrsToList (
        key: inner:
        let
          option = options.${key} or null;
          path = "${name}.${key}";
        in
        if option == null then
          [ ]
        else if lib.isOption option then
          [ (lib.nameValuePair path (describe option)) ] ++ below path option.type [ inner ]
        else
          lib.concatMap (part: lib.optionals (lib.isAttrs part) (walk path option part)) (bare inner)
      ) value
    );

  # Whether something other than its default defines an option: a default may need packages that are not there.
  # Internal options are not part of what NixOS promises.
  isSet = option: !(option.internal or false) && option.highestPrio < 1500;

  # Not options that are ours, or another flake's.
  isNixos = option: option.declarations != [ ] && lib.all (file: lib.hasPrefix "${toString harness.nixpkgs}/nixos/" (toString file)) option.declarations;

  optionsOf =
    path: options:
    lib.concatLists (
      lib.mapAttrsToList (
        key: option:
        let
          name = if path == "" then key else "${path}.${key}";
          definitions = lib.filter (definition: ours definition.file) option.definitionsWithLocations;
          found = builtins.tryEval (
            let
              result =
                if !isNixos option || definitions == [ ] then
                  [ ]
                else
                  [ (lib.nameValuePair name (describe option)) ]
                  ++ below name option.type (map (definition: definition.value) definitions);
            in
            builtins.deepSeq (map (pair: pair.name) result) result
          );
        in
        if key == "_module" || !lib.isAttrs option then
          [ ]
        else if lib.isOption option then
          lib.optionals (isSet option && found.success) found.value
        else
          optionsOf name option
      ) options
    );

  setOn = modules: lib.listToAttrs (optionsOf "" (harness.nixos { inherit modules; }).options);
in
lib.foldl' (all: modules: setOn modules // all) { } (lib.attrValues hosts)
