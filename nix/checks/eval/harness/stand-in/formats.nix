# SPDX-License-Identifier: MIT
# pkgs.formats: the types of Nixpkgs, and generated files whose text can be read. TOML is real TOML, so
# that our programs can read the files; the others are JSON.
{ lib, text }:
let
  jsonType =
    lib.types.nullOr (
      lib.types.oneOf [
        lib.types.bool
        lib.types.int
        lib.types.float
        lib.types.str
        lib.types.path
        (lib.types.attrsOf jsonType)
        (lib.types.listOf jsonType)
      ]
    )
    // {
      description = "JSON value";
    };

  atom =
    lib.types.nullOr (
      lib.types.oneOf [
        lib.types.bool
        lib.types.int
        lib.types.float
        lib.types.str
      ]
    )
    // {
      description = "INI atom";
    };
  atoms = lib.types.oneOf [
    atom
    (lib.types.listOf atom)
  ];
  sections = lib.types.attrsOf (lib.types.attrsOf atoms);

  json = name: value: text name (builtins.toJSON value);
  format = type: _: {
    inherit type;
    generate = json;
    lib.mkRaw = lib.id;
  };

  # Inline tables below the first level keep this short; they are as valid as headers.
  tomlValue =
    value:
    if builtins.isAttrs value then
      "{ ${
        lib.concatStringsSep ", " (
          lib.mapAttrsToList (name: inner: "${builtins.toJSON name} = ${tomlValue inner}") (withoutNull value)
        )
      } }"
    else if builtins.isList value then
      "[ ${lib.concatMapStringsSep ", " tomlValue value} ]"
    else
      builtins.toJSON value;
  withoutNull = lib.filterAttrs (_: value: value != null);
  toml =
    name: value:
    let
      lines = lib.mapAttrsToList (key: inner: "${builtins.toJSON key} = ${tomlValue inner}");
      tables = lib.filterAttrs (_: builtins.isAttrs) value;
      scalars = removeAttrs (withoutNull value) (lib.attrNames tables);
      table = key: inner: [ "\n[${builtins.toJSON key}]" ] ++ lines (withoutNull inner);
    in
    text name (
      lib.concatStringsSep "\n" (lines scalars ++ lib.concatLists (lib.mapAttrsToList table tables)) + "\n"
    );

  ini = _: {
    type = sections;
    lib.types.atom = atom;
    generate = json;
  };
in
lib.genAttrs [
  "cdn"
  "elixirConf"
  "hcl1"
  "hocon"
  "json"
  "libconfig"
  "lua"
  "nixConf"
  "php"
  "plist"
  "properties"
  "pythonVars"
  "xml"
  "yaml"
  "yaml_1_2"
] (_: format jsonType)
// {
  inherit ini;
  toml = _: {
    type = jsonType;
    generate = toml;
  };
  systemd = ini { };
  gitIni = format (lib.types.attrsOf (lib.types.attrsOf lib.types.anything));
  iniWithGlobalSection = _: {
    type = lib.types.submodule {
      options = {
        sections = lib.mkOption {
          type = sections;
          default = { };
        };
        globalSection = lib.mkOption {
          type = lib.types.attrsOf atoms;
          default = { };
        };
      };
    };
    generate = json;
    lib.types.atom = atom;
  };
  keyValue = args: {
    type = lib.types.attrsOf atoms;
    lib.types.atom = atom;
    generate =
      name: value:
      text name (
        lib.generators.toKeyValue (builtins.intersectAttrs {
          mkKeyValue = 1;
          listsAsDuplicateKeys = 1;
        } args) value
      );
  };
  javaProperties = _: {
    type = lib.types.attrsOf lib.types.str;
    generate = json;
  };
}
