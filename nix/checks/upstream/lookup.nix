# SPDX-License-Identifier: MIT
# What a NixOS says of the options NAMES, which set.nix wrote: { NAME = { type; required; }; }. An option that was
# renamed is { renamed = "new.name"; }, one that is gone is left out. Also the options without a value in the
# modules that NAMES enable: a host that does not set them does not evaluate.
{
  lib,
  harness,
  names,
}:
let
  inherit
    (harness.nixos {
      modules = [
        {
          networking.hostName = "web-01";
          system.stateVersion = lib.trivial.release;
          fileSystems."/" = {
            device = "/dev/vda1";
            fsType = "ext4"; # which has no default since NixOS 26.05
          };
          boot.loader.grub.device = "/dev/vda";
        }
      ];
    })
    options
    ;
  isRequired = import ./required.nix { inherit lib; };

  # mkRenamedOptionModule describes the old name as an alias of the new one.
  aliasOf = option: builtins.match "Alias of \\{option}`([^`]*)`[.].*" (textOf option.description or "");
  textOf = description: description.text or description;
  describe =
    option:
    if aliasOf option != null then
      { renamed = lib.head (aliasOf option); }
    else
      {
        type = option.type.description or option.type.name;
        required = isRequired option;
      };

  # What is below a type that has options inside.
  inside =
    type:
    let
      element = type.nestedTypes.elemType or type.nestedTypes.finalType or null;
    in
    if type.name == "submodule" then
      type.getSubOptions [ ]
    else if element != null then
      inside element
    else
      { };
  withoutMembers = path: if path != [ ] && lib.elem (lib.head path) [ "<name>" "*" ] then withoutMembers (lib.tail path) else path;
  find =
    set: path:
    let
      next = set.${lib.head path} or null;
      rest = withoutMembers (lib.tail path);
    in
    if next == null then
      null
    else if !lib.isOption next then
      if rest == [ ] then null else find next rest
    else if rest == [ ] || aliasOf next != null then
      next
    else
      find (inside next.type) rest;
  found = lib.mapAttrs (name: _: find options (lib.splitString "." name)) (lib.genAttrs names (_: null));

  # The options of the modules that are enabled, without those inside types.
  enabled = lib.unique (
    map (name: lib.removeSuffix ".enable" name) (lib.filter (name: lib.hasSuffix ".enable" name && !lib.hasInfix "<" name) names)
  );
  requiredBelow =
    name: set:
    lib.concatLists (
      lib.mapAttrsToList (
        key: option:
        if key == "_module" || !lib.isAttrs option then
          [ ]
        else if lib.isOption option && option.type.name == "submodule" then
          requiredBelow "${name}.${key}" (option.type.getSubOptions [ ])
        else if lib.isOption option then
          # Removed options have no default and are not visible.
          lib.optional (
            isRequired option
            && !(option.internal or false || option.readOnly or false)
            && option.visible or true != false
          ) (lib.nameValuePair "${name}.${key}" (describe option))
        else if option ? enable then
          [ ] # a module of its own
        else
          requiredBelow "${name}.${key}" option
      ) set
    );
  required = lib.listToAttrs (
    lib.concatMap (
      name:
      let
        set = lib.attrByPath (lib.splitString "." name) null options;
      in
      lib.optionals (set != null && !lib.isOption set) (requiredBelow name set)
    ) enabled
  );
in
required // lib.mapAttrs (_: describe) (lib.filterAttrs (_: option: option != null) found)
