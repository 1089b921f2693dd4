# SPDX-License-Identifier: MIT
# Nixpkgs' functions that make derivations, as far as NixOS modules and this project use them.
{
  lib,
  pkgs,
  path,
  drv,
}:
let
  inherit (drv)
    file
    mkDerivation
    package
    runCommand
    safeName
    text
    ;

  script = text;
  program = name: content: named name (file name "/bin/${name}" content);
  named = name: package: package // { meta = package.meta // { mainProgram = name; }; };
  called = args: package (safeName (args.name or args.pname or "unnamed"));
  constant = name: _: package name;

  # Nixpkgs' substitutions, applied to a text at evaluation if the source can be read.
  replaceVarsWith =
    {
      src,
      replacements ? { },
      name ? baseNameOf (toString src),
      ...
    }:
    runCommand name {
      inherit src;
      replacements = builtins.toJSON (lib.mapAttrs (_: toString) replacements);
    } "replace-vars";

  buildEnv =
    args:
    runCommand args.name {
      paths = map toString (lib.filter (path: path != null) (lib.flatten (args.paths or [ ])));
    } "build-env"
    // {
      paths = args.paths or [ ];
    };

  shellApplication =
    {
      name,
      text,
      runtimeInputs ? [ ],
      ...
    }:
    program name ''
      #!${pkgs.runtimeShell}
      set -o errexit
      set -o nounset
      set -o pipefail
      ${lib.optionalString (runtimeInputs != [ ]) ''export PATH="${lib.makeBinPath runtimeInputs}:$PATH"''}
      ${text}'';

  derivations = lib.genAttrs [
    "buildGoModule"
    "buildGo123Module"
    "buildGo124Module"
    "buildGo125Module"
    "buildGo126Module"
    "buildNpmPackage"
    "buildPythonApplication"
    "mkShell"
    "mkShellNoCC"
  ] (_: mkDerivation);

  commands = lib.genAttrs [
    "runCommand"
    "runCommandLocal"
    "runCommandCC"
    "runCommandNoCC"
    "runCommandNoCCLocal"
  ] (_: runCommand);

  fetchers = lib.genAttrs [
    "fetchurl"
    "fetchzip"
    "fetchgit"
    "fetchFromGitHub"
    "fetchFromGitLab"
    "fetchpatch"
    "fetchpatch2"
    "fetchTarball"
  ] (_: constant "source");

  byName = lib.genAttrs [
    "applyPatches"
    "buildFHSEnv"
    "buildFHSUserEnv"
    "makeDesktopItem"
    "requireFile"
    "srcOnly"
  ] (_: called);

  constants = lib.genAttrs [
    "aggregateModules"
    "makeAutostartItem"
    "makeDBusConf"
    "makeFontsCache"
    "makeFontsConf"
    "makeHardcodeGsettingsPatch"
    "makeModulesClosure"
    "mergeTrees"
    "substituteAllFiles"
    "writeClosure"
    "writeReferencesToFile"
  ] constant;

  writers =
    lib.genAttrs [ "writeText" "writeNginxConfig" ] (_: text)
    // lib.genAttrs [ "writeJSON" "writeYAML" "writeTOML" ] (
      _: name: value:
      text name (builtins.toJSON value)
    )
    // lib.genAttrs [ "writeBash" "writeDash" "writeNu" "writeFish" ] (_: script)
    // lib.genAttrs [ "writeBashBin" "writeDashBin" "writeNuBin" ] (_: program)
    // lib.genAttrs [ "writePython3" "writePyPy3" "writePerl" "writeRuby" "writeJS" ] (
      _: name: _:
      script name
    )
    // lib.genAttrs [ "writePython3Bin" "writePerlBin" ] (
      _: name: _:
      program name
    );
in
derivations
// commands
// fetchers
// byName
// constants
// {
  inherit buildEnv replaceVarsWith writers;
  rustPlatform.buildRustPackage = mkDerivation;

  writeText = text;
  writeTextFile =
    args:
    named (args.meta.mainProgram or args.name) (file args.name (args.destination or "") args.text);
  writeTextDir = destination: file (baseNameOf destination) "/${destination}";
  writeScript = script;
  writeShellScript = name: content: script name "#!${pkgs.runtimeShell}\n${content}";
  writeScriptBin = program;
  writeShellScriptBin = name: content: program name "#!${pkgs.runtimeShell}\n${content}";
  writeShellApplication = shellApplication;
  runCommandWith = args: runCommand args.name (args.derivationArgs or { });

  replaceVars =
    src: replacements:
    replaceVarsWith { inherit src replacements; };
  substitute =
    args: runCommand (args.name or (baseNameOf (toString args.src))) { inherit (args) src; } "substitute";
  substituteAll =
    args:
    replaceVarsWith (
      if builtins.isAttrs args then
        {
          inherit (args) src;
          name = args.name or (baseNameOf (toString args.src));
          replacements = drv.plainEnvironment (removeAttrs args [ "src" ]);
        }
      else
        { src = args; }
    );

  symlinkJoin = args: buildEnv (args // { name = args.name or "${args.pname}-${args.version or "0"}"; });
  linkFarm =
    name: entries:
    runCommand name {
      links = map (entry: "${entry.name} ${entry.path}") (
        if builtins.isAttrs entries then lib.mapAttrsToList (name: path: { inherit name path; }) entries else entries
      );
    } "link-farm";
  linkFarmFromDrvs =
    name: packages:
    runCommand name { links = map toString packages; } "link-farm";
  concatText = name: files: runCommand name { inherit files; } "concat";
  concatTextFile = args: runCommand args.name { inherit (args) files; } "concat";
  closureInfo = args: runCommand "closure-info" { rootPaths = args.rootPaths or [ ]; } "closure-info";

  makeSetupHook = args: _: package (args.name or "hook");
  makeWrapper = package "make-wrapper";
  makeBinaryWrapper = package "make-binary-wrapper";
  makeInitrd = pkgs.makeInitrdNG;
  makeInitrdNG =
    args:
    runCommand (args.name or "initrd") {
      objects = map (entry: "${entry.object or entry.source or entry}") (args.contents or [ ]);
    } "initrd"
    // {
      compressorExecutableFunction = _: "/bin/gzip";
      compressorArgs = [ ];
      compressor = "gzip";
    };
  compressFirmwareXz = lib.id;
  compressFirmwareZstd = lib.id;

  nixosOptionsDoc =
    args: import (path + "/nixos/lib/make-options-doc") ({ inherit pkgs lib; } // args);
  apparmorRulesFromClosure = _: constant "apparmor-rules";
  nixosTests = { };
  tests = { };
  testers = lib.genAttrs [ "runNixOSTest" "nixosTest" "runCommand" ] (_: constant "test");
  dockerTools = lib.genAttrs [ "buildImage" "buildLayeredImage" "pullImage" "streamLayeredImage" ] (
    _: called
  );
  ociTools.buildContainer = constant "container";
  vmTools = {
    qemu = package "qemu";
    runInLinuxVM = lib.id;
    override = _: pkgs.vmTools;
  };
}
