# SPDX-License-Identifier: MIT
# A fleet that already has a profile of its own for servers, in the manner of srvos: much of what a role
# sets is set here, with mkDefault and without.
{ inputs, sshKey, ... }:
let
  profile =
    { lib, ... }:
    {
      boot.loader.systemd-boot.enable = lib.mkDefault true;
      boot.initrd.systemd.enable = lib.mkDefault true;
      boot.tmp.cleanOnBoot = lib.mkDefault true;
      documentation.enable = lib.mkDefault false;
      environment.enableAllTerminfo = lib.mkDefault false;
      hardware.enableRedistributableFirmware = lib.mkDefault false;
      networking = {
        firewall.allowPing = true;
        firewall.logRefusedConnections = lib.mkDefault false;
        hostName = lib.mkDefault "";
        nftables.enable = lib.mkDefault true;
        useDHCP = lib.mkDefault false;
        useNetworkd = lib.mkDefault true;
      };
      nix.settings = {
        experimental-features = [
          "nix-command"
          "flakes"
        ];
        trusted-users = [ "@wheel" ];
      };
      programs.vim.defaultEditor = lib.mkDefault true;
      security.sudo.wheelNeedsPassword = false;
      services.openssh = {
        enable = true;
        settings.KbdInteractiveAuthentication = lib.mkDefault false;
        settings.PasswordAuthentication = lib.mkDefault false;
        settings.PermitRootLogin = lib.mkDefault "yes";
        settings.X11Forwarding = false;
      };
      services.prometheus.exporters.node = {
        enable = lib.mkDefault true;
        port = lib.mkDefault 9200;
        enabledCollectors = [ "systemd" ];
      };
      services.timesyncd.enable = lib.mkDefault true;
      systemd.enableEmergencyMode = lib.mkDefault false;
      systemd.watchdog.runtimeTime = lib.mkDefault "20s";
      time.timeZone = lib.mkDefault "UTC";
      users.mutableUsers = lib.mkDefault false;
      zramSwap.enable = lib.mkDefault false;
      i18n.defaultLocale = lib.mkDefault "en_US.UTF-8";
    };
in
{
  needs = [ "sops-nix" ];
  modules = [
    profile
    inputs.sops-nix.nixosModules.sops
    (
      { pkgs, ... }:
      {
        sops = {
          package = pkgs.hello;
          validateSopsFiles = false;
          defaultSopsFile = ./server-profile.nix;
          secrets.token = { };
        };
        fileSystems."/" = {
          device = "/dev/disk/by-partlabel/root";
          fsType = "btrfs";
        };
        fileSystems."/boot" = {
          device = "/dev/disk/by-partlabel/esp";
          fsType = "vfat";
        };
        users.users.deploy = {
          isNormalUser = true;
          extraGroups = [ "wheel" ];
          openssh.authorizedKeys.keys = [ sshKey ];
        };
      }
    )
  ];
}
