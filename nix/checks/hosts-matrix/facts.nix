# SPDX-License-Identifier: MIT
# What must stay the same on a host: how it boots, who can log in and how, and by which keys it is known.
# Each fact is a line of text. A host keeps its facts if none is missing; new ones may be added.
{ lib, config, options }:
let
  json = builtins.toJSON;
  isDarwin = options ? launchd;

  inherit (config.boot) loader;
  boot = [
    "boot loader ${config.system.boot.loader.id or "none"}"
    "GRUB ${json loader.grub.enable}"
    "systemd-boot ${json loader.systemd-boot.enable}"
    "extlinux ${json loader.generic-extlinux-compatible.enable}"
    "init script ${json loader.initScript.enable}"
    "external ${json loader.external.enable}"
    "lanzaboote ${json (config.boot.lanzaboote.enable or false)}"
    "systemd in stage 1 ${json config.boot.initrd.systemd.enable}"
    "EFI variables ${json loader.efi.canTouchEfiVariables}, below ${loader.efi.efiSysMountPoint}"
  ]
  ++ lib.optionals loader.grub.enable (
    map (
      boots: "GRUB on ${toString boots.devices} in ${boots.path}, EFI ${toString boots.efiSysMountPoint}"
    ) loader.grub.mirroredBoots
    ++ [
      "GRUB for EFI ${json loader.grub.efiSupport}, removable ${json loader.grub.efiInstallAsRemovable}"
    ]
  )
  ++ lib.mapAttrsToList (
    path: fs: "file system ${path} ${toString fs.device} ${fs.fsType} in stage 1 ${json fs.neededForBoot}"
  ) config.fileSystems;

  sshd = config.services.openssh;
  inherit (config.users) mutableUsers;
  people = lib.filterAttrs (
    name: user:
    user.isNormalUser || name == "root" || keysOf user != [ ]
  ) config.users.users;
  keysOf =
    user: map toString (user.openssh.authorizedKeys.keys ++ user.openssh.authorizedKeys.keyFiles);
  isHash = hash: hash != null && builtins.match "[!*].*" hash == null;
  declared =
    user:
    user.hashedPasswordFile != null || isHash user.hashedPassword || user.password != null;
  # Set once, or with passwd: such a password is kept only as long as accounts may change.
  changeable = user: mutableUsers && !declared user;
  hasPassword =
    user:
    declared user
    || changeable user
    || isHash user.initialHashedPassword
    || user.initialPassword != null;
  passwords = sshd.settings.PasswordAuthentication == true || sshd.settings.PasswordAuthentication == null;
  root = sshd.settings.PermitRootLogin;
  login =
    name: user:
    [
      "${name} has uid ${json user.uid}, group ${user.group}, home ${user.home}, shell ${lib.getName user.shell}"
    ]
    ++ map (group: "${name} is in ${group}") user.extraGroups
    ++ lib.optionals (sshd.enable && (name != "root" || root != "no")) (
      map (key: "${name} by SSH with ${key}") (keysOf user)
      # Who has a key needs no password: that way may be closed.
      ++ lib.optional (
        keysOf user == [ ] && passwords && hasPassword user && (name != "root" || root == "yes")
      ) "${name} by SSH with a password"
    )
    ++ lib.optional (hasPassword user) "${name} at the console with a password"
    ++ lib.optional (changeable user) "${name} by the password that passwd has set";
  ports = sshd.ports ++ map (address: address.port) (lib.filter (address: address.port != null) sshd.listenAddresses);
  open =
    port:
    lib.elem port config.networking.firewall.allowedTCPPorts || !config.networking.firewall.enable;
  logins =
    lib.concatLists (lib.mapAttrsToList login people)
    ++ lib.optionals sshd.enable (
      map (file: "sshd reads ${file}") sshd.authorizedKeysFiles
      ++ map (port: "sshd on port ${toString port}") ports
      ++ map (port: "port ${toString port} is open") (lib.filter open ports)
    )
    ++ lib.concatLists (
      lib.mapAttrsToList (
        interface: rules: map (port: "port ${toString port} is open on ${interface}") rules.allowedTCPPorts
      ) config.networking.firewall.interfaces
    )
    ++ [ "the console logs in ${json config.services.getty.autologinUser}" ]
    ++ lib.optional (!config.security.sudo.wheelNeedsPassword) "wheel needs no password"
    ++ lib.optional config.security.sudo.enable "there is sudo";

  identities =
    [ "named ${config.networking.hostName}, id ${json (config.networking.hostId or null)}" ]
    ++ lib.optionals sshd.enable (map (key: "host key ${key.type} ${key.path}") sshd.hostKeys)
    ++ map (path: "agenix reads ${path}") (config.age.identityPaths or [ ])
    ++ map (path: "sops reads ${path}") (
      config.sops.age.sshKeyPaths or [ ] ++ config.sops.gnupg.sshKeyPaths or [ ]
    );
in
if isDarwin then
  {
    boot = [ ];
    login = lib.concatLists (
      lib.mapAttrsToList (
        name: user:
        [ "${name} has home ${toString user.home}, shell ${toString (user.shell.name or user.shell)}" ]
        ++ map (key: "${name} by SSH with ${key}") user.openssh.authorizedKeys.keys
      ) config.users.users
    );
    identities = [ "named ${toString config.networking.hostName}" ];
  }
else
  {
    inherit boot identities;
    login = logins;
  }
