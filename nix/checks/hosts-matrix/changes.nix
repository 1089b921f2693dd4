# SPDX-License-Identifier: MIT
# What MODULE changes in a host: one line for each option that it sets and that has another value than in
# BASE; and which of those values no plain assignment of the user overrides.
{
  lib,
  module,
  base,
  host,
  # The name of the host, which is left out of the lines.
  shape,
}:
let
  # Options that say something about the host without changing it, and those of NixFleet itself.
  skipped = [
    "_module"
    "assertions"
    "hostSpec"
    "meta"
    "nixfleet"
    "warnings"
  ];
  # A module's definitions as they are written, with those of what it imports.
  definitions =
    module:
    let
      written = if builtins.isPath module || builtins.isString module then import module else module;
      arguments = {
        inherit (host) config options;
        inherit lib;
      }
      // host._module.args;
      value =
        if builtins.isFunction written then
          written (lib.intersectAttrs (builtins.functionArgs written) arguments)
        else
          written;
      own =
        if value ? config || value ? options then
          value.config or { }
        else
          removeAttrs value [
            "_class"
            "_file"
            "imports"
          ];
    in
    [ own ] ++ lib.concatMap definitions (value.imports or [ ]);

  # The paths to which a definition assigns, and the priority of each.
  leaves =
    priority: path: value:
    if builtins.isAttrs value && value._type or null == "if" then
      lib.optionals value.condition (leaves priority path value.content)
    else if builtins.isAttrs value && value._type or null == "override" then
      leaves value.priority path value.content
    else if builtins.isAttrs value && value._type or null == "order" then
      leaves priority path value.content
    else if builtins.isAttrs value && value._type or null == "merge" then
      lib.concatMap (leaves priority path) value.contents
    else if builtins.isAttrs value && !lib.isDerivation value && !(value ? _type) then
      lib.concatLists (lib.mapAttrsToList (name: leaves priority (path ++ [ name ])) value)
    else
      [ { inherit path priority value; } ];

  missing = { _missing = true; };
  at =
    config: path:
    let
      tried = builtins.tryEval (lib.attrByPath path missing config);
    in
    if tried.success then tried.value else { _type = "unset"; };
  isMissing = value: builtins.isAttrs value && value ? _missing;
  # The shortest path that the base does not have.
  new =
    path:
    lib.findFirst (prefix: isMissing (at base.config prefix)) null (
      map (n: lib.take n path) (lib.range 1 (lib.length path))
    );

  short = text: if lib.stringLength text > 150 then "${lib.substring 0 147 text}..." else text;
  isText = value: builtins.isString value && lib.hasInfix "\n" value;
  show =
    value:
    let
      tried = builtins.tryEval (shown value);
    in
    if tried.success then tried.value else "<unset>";
  shown =
    value:
    if lib.isDerivation value then
      lib.getName value
    else if isText value then
      "<${toString (lib.length (lib.splitString "\n" value) - 1)} lines>"
    else if builtins.isString value then
      let
        plain = builtins.unsafeDiscardStringContext value;
      in
      if lib.hasPrefix builtins.storeDir plain then
        "<store path>"
      else
        builtins.toJSON (lib.replaceStrings [ shape ] [ "HOST" ] plain)
    else if builtins.isList value then
      "[${lib.concatMapStringsSep " " show value}]"
    else if builtins.isFunction value then
      "<function>"
    else if builtins.isAttrs value then
      if value ? directory then
        show value.directory
      else if value ? _type then
        "<${toString value._type}>"
      else
        "{${lib.concatStringsSep " " (lib.attrNames value)}}"
    else
      builtins.toJSON value;
  # Lists and texts are merged: what is said is what the module adds to them.
  differ =
    added: before: after:
    if builtins.isList added && builtins.isList before then
      let
        missingThere = lib.subtractLists (map show before) (map show added);
      in
      lib.optionalString (missingThere != [ ]) "+ ${short (toString missingThere)}"
    else if isText added && before != after then
      "+ ${show added}"
    # It adds nothing: it only orders what others say.
    else if added == "" && isText before then
      ""
    else if show before == show after then
      ""
    else
      "${short (show before)} -> ${short (show after)}";
  name = lib.concatStringsSep ".";
  line =
    { path, value, ... }:
    let
      fresh = new path;
      after = at host.config path;
    in
    if fresh != null then
      lib.optional (!(isMissing (at host.config fresh))) (
        "${name fresh}: ${if fresh == path then short (show after) else "new"}"
      )
    else
      let
        change = differ value (at base.config path) after;
      in
      lib.optional (change != "") "${name path}: ${change}";

  assigned = lib.filter ({ path, ... }: path != [ ] && !lib.elem (lib.head path) skipped) (
    lib.concatMap (leaves 100 [ ]) (definitions module)
  );
  # Lists, lines and sets are merged with what the user assigns; these are not.
  isSingle =
    value:
    builtins.isBool value || builtins.isInt value || (builtins.isString value && value != "" && !lib.hasInfix "\n" value);
in
{
  changes = lib.unique (lib.concatMap line assigned);
  unyielding = lib.unique (
    map ({ path, ... }: name path) (
      lib.filter ({ priority, value, ... }: priority <= 100 && isSingle value) assigned
    )
  );
}
