# SPDX-License-Identifier: MIT
# A stand-in package: a derivation of the right name that cannot be built, with the attributes that
# NixOS modules read from packages. The derivation itself is evaluated only when a path is needed.
{
  lib,
  system,
  hostPlatform,
}:
let
  safeName = name: lib.strings.sanitizeDerivationName (toString name);

  # Outputs and attributes that point back at the package, whichever package it is.
  selfAttributes = [
    "out"
    "bin"
    "dev"
    "lib"
    "man"
    "doc"
    "info"
    "data"
    "debug"
    "static"
    "fd"
    "server"
    "dist"
    "sshd"
    "mount"
    "login"
    "swap"
    "terminfo"
    "libgcc"
    "p11kit"
    "unbundled"
    "hashed"
    "util-linux"
    "web"
    "json"
    "cli"
    "client"
    "serverBin"
    "webapps"
    "run"
    "rubyEnv"
    "php"
    "phpPackage"
    "python"
    "python3"
    "pause"
    "jre"
    "apparmor"
    "el"
    "rake"
    "elixirPackage"
    "pkgs"
    "sa_config"
    "systemd_unit"
    "systemd_unit_hardened"
    "cl100k_base"
    "nltkData"
    "fullperl"
    "kpmcore"
    "installedTests"
    "jack"
    "fhs"
    "infinoted"
    "gzip"
    "gnomeFilePath"
    "kdeFilePath"
    "qemu_kvm"
    "unwrapped"
    "withJIT"
    "withoutJIT"
  ];
  selfFunctions = [
    "override"
    "overrideAttrs"
    "overrideDerivation"
    "overridePythonAttrs"
    "withPackages"
    "withExtensions"
    "withPlugins"
    "combine"
  ];

  decorate =
    { name, drv }:
    extra:
    let
      package = {
        type = "derivation";
        outputName = "out";
        outputs = [ "out" ];
        inherit name system;
        inherit (drv) outPath drvPath drvAttrs;
        pname = lib.getName name;
        version = "999";
        src = "/stand-in-src/${name}";
        meta = {
          description = "stand-in";
          longDescription = "stand-in";
          homepage = "https://example.org";
          mainProgram = lib.getName name;
          outputsToInstall = [ "out" ];
          available = true;
          broken = false;
          unfree = false;
          insecure = false;
          platforms = lib.platforms.all;
          license = [ ];
        };
        passthru = {
          jre = package;
          implementation = "stand-in";
          nodeAppDir = "lib";
          plugins = { };
          commit_sha = "0";
        };
        tests = { };
        updateScript = null;
        buildEnv.override = _: package;
        mkDerivation = mkDerivation;
        stdenv = {
          inherit hostPlatform system;
          inherit (hostPlatform) isLinux isDarwin;
        };
        toPythonModule = lib.id;

        # What NixOS modules read from particular packages; harmless on others.
        availableComponents = [ ];
        enabledCryptSchemeIds = [ "y" "gy" "7" "2b" "2y" "2a" "6" ];
        enabledPlugins = [ ];
        extraComponents = [ ];
        filesInstalledToEtc = [ ];
        initialVT = "7";
        jitSupport = false;
        luaSupport = false;
        modules = [ ];
        networkManagerPlugin = "${name}.so";
        optional-dependencies = { };
        plugins = { };
        projectName = lib.getName name;
        propagatedBuildInputs = [ ];
        providedSessions = [ (lib.getName name) ];
        providerNames = [ ];
        psqlSchema = "16";
        pythonPath = [ ];
        runtimeEnv = { };
        schema_version = "1";
        services = [ ];
        shellPath = "/bin/${lib.getName name}";
        sitePackages = "lib/python3.12/site-packages";
        withSystemd = true;
      }
      // lib.genAttrs selfAttributes (_: package)
      // lib.genAttrs selfFunctions (_: _: package)
      // extra package;
    in
    package;

  raw = name: args: {
    inherit name;
    drv = derivation (
      {
        inherit name system;
        builder = "/stand-in-cannot-be-built";
      }
      // args
    );
  };

  packageWith = name: decorate (raw "${name}-999" { });
  package = name: packageWith name (_: { });

  # Environment values that a plain derivation cannot take are left out.
  plainEnvironment =
    env:
    lib.filterAttrs (
      name: value:
      !(lib.elem name [
        "meta"
        "passthru"
        "name"
        "builder"
        "args"
        "outputs"
        "nativeBuildInputs"
        "buildInputs"
        "env"
        "__structuredAttrs"
        "preferLocalBuild"
        "allowSubstitutes"
      ])
      && !builtins.isFunction value
      && !(builtins.isAttrs value && !(value ? outPath) && !(value ? __toString))
    ) env;

  runCommand =
    name: env: script:
    decorate (raw (safeName name) (plainEnvironment env // (env.env or { }) // { inherit script; })) (
      _:
      (env.passthru or { })
      // {
        inherit script;
        meta = {
          mainProgram = name;
          outputsToInstall = [ "out" ];
        } // (env.meta or { });
      }
    );

  # stdenv.mkDerivation and similar functions. A buildCommand is kept, so that, for example, a toplevel
  # depends on all its parts; of anything else only the name is kept.
  mkDerivation =
    args:
    let
      given = if builtins.isFunction args then lib.fix args else args;
      name = safeName (given.name or "${given.pname or "unnamed"}-${given.version or "0"}");
      own = (given.passthru or { }) // {
        pname = given.pname or name;
        version = given.version or "";
        src = given.src or null;
        meta = {
          mainProgram = given.pname or name;
          outputsToInstall = [ "out" ];
        } // (given.meta or { });
      };
    in
    if given ? buildCommand then
      runCommand name (removeAttrs given [
        "buildCommand"
        "passthru"
        "meta"
      ]) given.buildCommand // own
    else
      decorate (raw name { }) (_: own);

  # A file; `.text` is its content, `.destination` its place below the output.
  file =
    name: destination: content:
    decorate (raw (safeName name) {
      inherit destination;
      text = content;
    }) (_: {
      inherit destination;
      text = content;
    });
in
{
  inherit
    decorate
    file
    mkDerivation
    package
    packageWith
    plainEnvironment
    raw
    runCommand
    safeName
    ;
  text = name: file name "";
}
