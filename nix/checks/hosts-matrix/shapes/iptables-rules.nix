# SPDX-License-Identifier: MIT
# A router with rules of its own for iptables, address translation, Docker, and bans of attackers.
_:
{
  modules = [
    {
      boot.loader.grub.device = "/dev/sda";
      fileSystems."/" = {
        device = "/dev/sda1";
        fsType = "ext4";
      };
      networking.nat = {
        enable = true;
        externalInterface = "wan0";
        internalInterfaces = [ "lan0" ];
      };
      networking.firewall = {
        extraCommands = "iptables -A nixos-fw -p tcp -s 10.0.0.0/8 --dport 9090 -j nixos-fw-accept";
        extraStopCommands = "iptables -D nixos-fw -p tcp -s 10.0.0.0/8 --dport 9090 -j nixos-fw-accept || true";
        trustedInterfaces = [ "lan0" ];
      };
      virtualisation.docker.enable = true;
      services.fail2ban.enable = true;
      services.openssh.enable = true;
      users.users.alice = {
        isNormalUser = true;
        extraGroups = [
          "docker"
          "wheel"
        ];
        hashedPasswordFile = "/etc/secrets/alice";
        openssh.authorizedKeys.keyFiles = [ ./alice.pub ];
      };
    }
  ];
}
