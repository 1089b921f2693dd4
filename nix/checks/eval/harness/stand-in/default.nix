# SPDX-License-Identifier: MIT
# A stand-in for Nixpkgs' package set, to evaluate NixOS and nix-darwin modules with only a tree of
# modules. Every package is a derivation that cannot be built; the texts that functions write can be
# read. A pass here does not show that a package exists in Nixpkgs.
{
  lib,
  # { pkg = { }; pkg.sub = { }; }, as package-names.pl prints them.
  names,
  units,
  system,
  # What pkgs.path is.
  path,
  config ? { },
  overlays ? [ ],
}:
let
  elaborated = lib.systems.elaborate system;
  hostPlatform = elaborated // {
    linux-kernel = {
      name = "pc";
      baseConfig = "defconfig";
      target = if elaborated.isAarch64 then "Image" else "bzImage";
      autoModules = true;
      DTB = false;
    } // (elaborated.linux-kernel or { });
  };

  drv = import ./derivation.nix { inherit lib system hostPlatform; };

  # A package's own attributes are never packages in it.
  own = lib.attrNames (drv.package "any");
  # A package that is also a set of packages, such as python3Packages.
  tree = name: inside: drv.packageWith name (_: lib.mapAttrs tree (removeAttrs inside own));

  callPackageOf =
    pkgs: function: args:
    let
      fn = if builtins.isFunction function then function else import function;
      wanted = builtins.functionArgs fn;
      # An argument that names no known package gets a stand-in of its own.
      unknown = lib.filterAttrs (name: hasDefault: !hasDefault && !(pkgs ? ${name})) wanted;
    in
    fn (lib.mapAttrs (name: _: drv.package name) unknown // builtins.intersectAttrs wanted pkgs // args);

  stdenv = drv.packageWith "stdenv" (_: {
    inherit hostPlatform system;
    inherit (drv) mkDerivation;
    inherit (hostPlatform)
      is64bit
      isAarch32
      isAarch64
      isBigEndian
      isDarwin
      isLinux
      isi686
      isx86
      isx86_32
      isx86_64
      ;
    buildPlatform = hostPlatform;
    targetPlatform = hostPlatform;
    shell = "/bin/sh";
    libc = drv.package "glibc";
    cc = drv.packageWith "cc" (_: {
      libc = drv.package "glibc";
      bintools = drv.packageWith "bintools" (_: {
        dynamicLinker = "/lib64/ld-linux-x86-64.so.2";
      });
      isGNU = true;
      isClang = false;
      cc = drv.package "gcc";
    });
  });

  again = more: import ./. {
    inherit lib names units system path config;
    overlays = more;
  };

  self =
    pkgs:
    let
      sets = lib.genAttrs [
        "buildPackages"
        "gitAndTools"
        "pkgsBuildBuild"
        "pkgsBuildHost"
        "pkgsHostHost"
        "pkgsHostTarget"
        "pkgsMusl"
        "pkgsStatic"
        "pkgsi686Linux"
        "__splicedPackages"
      ] (_: pkgs);
      callPackage = callPackageOf pkgs;
    in
    lib.mapAttrs tree (removeAttrs names (lib.attrNames lib ++ lib.attrNames builtins))
    // sets
    // {
      # lib.types.pkgs refuses a set without this, with a message that prints all of it.
      _type = "pkgs";
      inherit
        callPackage
        hostPlatform
        lib
        path
        stdenv
        system
        ;
      buildPlatform = hostPlatform;
      targetPlatform = hostPlatform;
      stdenvNoCC = stdenv;
      pkgsCross = { };
      overlays = [ ];
      config = {
        allowUnfree = true;
        allowAliases = true;
        allowBroken = false;
        rocmSupport = false;
        cudaSupport = false;
      } // config;
      splicePackages = _: pkgs;
      newScope = _: callPackage;
      callPackages = callPackage;
      makeScope = _: members: lib.fix (scope: members scope // { inherit callPackage; });
      appendOverlays = more: again (overlays ++ more);
      extend = overlay: again (overlays ++ [ overlay ]);
      nixos = _: throw "the stand-in package set has no pkgs.nixos";
      formats = import ./formats.nix {
        inherit lib;
        inherit (drv) text;
      };
    }
    // import ./builders.nix {
      inherit
        lib
        pkgs
        path
        drv
        ;
    }
    // import ./kernel.nix {
      inherit
        lib
        hostPlatform
        system
        drv
        ;
    }
    // import ./packages.nix {
      inherit
        lib
        pkgs
        drv
        units
        ;
    };
in
lib.fix (pkgs: lib.foldl' (prev: overlay: prev // overlay pkgs prev) (self pkgs) overlays)
