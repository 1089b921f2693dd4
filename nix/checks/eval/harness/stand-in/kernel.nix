# SPDX-License-Identifier: MIT
# The kernel and the packages that belong to it.
{
  lib,
  hostPlatform,
  system,
  drv,
}:
let
  version = "6.6.1";

  kernel = drv.decorate (drv.raw "linux-${version}" { }) (self: {
    inherit version;
    modDirVersion = version;
    baseVersion = lib.versions.majorMinor version;
    features = {
      efiBootStub = true;
      ia32Emulation = true;
      netfilterRPFilter = true;
      needsCifsUtils = true;
    };
    config = {
      isYes = _: true;
      isEnabled = _: true;
      isModule = _: true;
      isDisabled = _: false;
      isNo = _: false;
      isSet = _: true;
      getValue = _: "y";
    };
    kernelAtLeast = lib.versionAtLeast version;
    kernelOlder = lib.versionOlder version;
    isXen = false;
    isHardened = false;
    isZen = false;
    isLibre = false;
    modules = self;
    target = "bzImage";
    kernelPatches = [ ];
  });

  modules = [
    "acpi_call"
    "bbswitch"
    "bcachefs"
    "bcc"
    "bpftrace"
    "broadcom_sta"
    "cpupower"
    "ena"
    "ixgbevf"
    "nvidia_x11"
    "openafs"
    "perf"
    "rtl8821ce"
    "system76"
    "tp_smapi"
    "turbostat"
    "usbip"
    "v4l2loopback"
    "vhba"
    "virtualbox"
    "wireguard"
    "x86_energy_perf_policy"
    "xone"
    "zfs"
    "zfs_unstable"
  ];

  packages = lib.genAttrs modules drv.package // {
    inherit kernel;
    inherit (kernel) kernelAtLeast kernelOlder;
    stdenv = { inherit hostPlatform system; };
    nvidiaPackages = lib.genAttrs [ "stable" "beta" "production" "latest" "legacy_470" ] drv.package;
    extend = _: packages;
    override = _: packages;
    recurseForDerivations = true;
  };
in
{
  linux = kernel;
  linux_latest = kernel;
  linuxPackages = packages;
  linuxPackages_latest = packages;
  linuxPackagesFor = _: packages;
  linuxKernel = {
    kernels = { };
    packages.linux_6_6 = packages;
    packagesFor = _: packages;
  };
  zfs = drv.packageWith "zfs" (_: {
    kernelCompatible = true;
    kernelModuleAttribute = "zfs";
    latestCompatibleLinuxPackages = packages;
    userspaceTools = drv.package "zfs-user";
    enableMail = false;
  });
}
