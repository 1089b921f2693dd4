# SPDX-License-Identifier: MIT
# Packages of which NixOS modules read more than a path.
{
  lib,
  pkgs,
  drv,
  units,
}:
let
  inherit (drv) package packageWith;

  systemdFeatures = [
    "withAnalyze"
    "withApparmor"
    "withAudit"
    "withBootloader"
    "withCompression"
    "withCoredump"
    "withCryptsetup"
    "withEfi"
    "withFido2"
    "withFirstboot"
    "withHomed"
    "withHostnamed"
    "withHwdb"
    "withImportd"
    "withIptables"
    "withKmod"
    "withLibBPF"
    "withLocaled"
    "withLogind"
    "withMachined"
    "withNetworkd"
    "withNspawn"
    "withNss"
    "withOomd"
    "withPCRE2"
    "withPam"
    "withPolkit"
    "withPortabled"
    "withRemote"
    "withRepart"
    "withResolved"
    "withShellCompletions"
    "withSysupdate"
    "withSysusers"
    "withTimedated"
    "withTimesyncd"
    "withTpm2Tss"
    "withUkify"
    "withUserDb"
    "withUtmp"
  ];
  systemd =
    drv.decorate (drv.raw "systemd-256.4" { inherit units; }) (
      _:
      lib.genAttrs systemdFeatures (_: true)
      // {
        version = "256.4";
        interfaceVersion = 2;
        withVmspawn = false;
        withTests = false;
        withSelinux = false;
        withKernelInstall = false;
        withQrencode = false;
        kbd = package "kbd";
        kmod = package "kmod";
        util-linux = package "util-linux";
      }
    );

  shell = name: packageWith name (_: { shellPath = "/bin/${name}"; });
in
{
  inherit systemd;
  systemdMinimal = systemd;
  systemdStage1 = systemd;
  systemdStage1Network = systemd;
  systemdUkify = systemd;
  udev = systemd;

  python3 = packageWith "python3" (_: {
    pkgs = pkgs.python3Packages;
    pythonVersion = "3.12";
    sitePackages = "lib/python3.12/site-packages";
    interpreter = "/bin/python3";
    libPrefix = "python3.12";
    pythonOnBuildForHost = pkgs.python3;
  });
  perl = packageWith "perl" (_: {
    pkgs = pkgs.perlPackages;
    libPrefix = "lib/perl5/site_perl";
    version = "5.40.0";
  });
  nix = packageWith "nix" (_: {
    version = "2.24.9";
  });
  nixVersions = lib.genAttrs [ "stable" "latest" "nix_2_24" "git" "minimum" ] (_: pkgs.nix);
  glibc = packageWith "glibc" (_: {
    version = "2.39";
    libgcc = package "libgcc";
    getent = package "getent";
  });
  getent = package "getent";
  glibcLocales = package "glibc-locales";
  glibcLocalesUtf8 = package "glibc-locales";
  bash = packageWith "bash" (_: {
    shellPath = "/bin/bash";
    interpreter = "/bin/bash";
  });
  bashInteractive = pkgs.bash;
  runtimeShell = "${pkgs.bash}/bin/bash";
  runtimeShellPackage = pkgs.bash;
  zsh = shell "zsh";
  fish = shell "fish";
  shadow = packageWith "shadow" (_: {
    shellPath = "/bin/nologin";
    su = package "su";
  });
  postgresql = packageWith "postgresql" (self: {
    version = "16.4";
    psqlSchema = "16";
    pkgs = pkgs.postgresqlPackages;
    withJIT = self;
    withoutJIT = self;
    jitSupport = false;
  });
  addDriverRunpath = packageWith "add-driver-runpath" (_: {
    driverLink = "/run/opengl-driver";
  });
  OVMF = packageWith "OVMF" (_: {
    systemManagementModeRequired = false;
    firmware = "/stand-in/OVMF_CODE.fd";
    variables = "/stand-in/OVMF_VARS.fd";
  });
  fwupd = packageWith "fwupd" (_: {
    fwupd-efi = package "fwupd-efi";
  });
  dhcpcd = packageWith "dhcpcd" (_: {
    enablePrivSep = true;
  });
}
// lib.genAttrs [
  "cacert"
  "dbus"
  "hello"
  "moreutils"
  "nginx"
  "nodejs"
  "openssl"
  "sudo"
  "sudo-rs"
  "tzdata"
] package
