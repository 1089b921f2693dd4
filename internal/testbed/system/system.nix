# SPDX-License-Identifier: MIT
# A NixOS-like system closure from nothing but /bin/sh (needs sandbox = false and coreutils in /usr/bin). Its layout and its
# behaviour are what an agent finds on NixOS: init, activate, bin/switch-to-configuration (switch, boot, test,
# dry-activate; exit 0, 1 usage or lock, 2 activation failed, 3 reload failed, 4 units failed), nixos-version, kernel, initrd,
# kernel-modules, kernel-params, etc, sw; /run/current-system, /run/booted-system, /boot/default.
{
  system ? builtins.currentSystem,
  hostName ? "web-01",
  generation ? "1",
  # MiB of random bytes in the closure, so that there is something to fetch.
  payloadMiB ? 0,
  # Its fault, if it has one:
  #   activation   activate exits 1
  #   hang         activate never ends
  #   killer       activate kills its caller's process group, as an agent that is restarted by its own switch may see
  #   unit         app.service does not start
  #   unhealthy    app.service starts, and fails a second after the switch
  #   flapping     app.service fails after the switch and is restarted for ever
  #   network      the switch succeeds and cuts the network
  #   boot         runs until the next boot, which fails
  #   agent-crash  its agent ends at once, each time it is started
  fault ? "",
  # Name of a service -> shell command, or { text = "[Service]..."; } for a whole unit.
  services ? { },
  # Path below /etc -> text.
  files ? { },
  # The agent's program (a path); its configuration is files."nixfleet/agent.toml".
  agent ? null,
  # A change of either needs a reboot.
  kernel ? "1",
  params ? "",
  # Name of a component -> version: switch refuses when one of them changes, as NixOS 26.05 does.
  inhibitors ? { },
}:
let
  inherit (builtins) attrNames concatStringsSep toString;

  build = name: script: derivation {
    inherit name script system;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    passAsFile = [ "script" ];
    args = [ "-eu" "-c" ". \"$scriptPath\"" ];
  };
  quote = text: "'" + builtins.replaceStrings [ "'" ] [ "'\\''" ] text + "'";
  put = file: text: "mkdir -p ${dirOf file}; printf %s ${quote text} > ${file}\n";
  lines = f: set: concatStringsSep "" (map (n: f n set.${n}) (attrNames set));

  payload = build "payload-${toString payloadMiB}-${generation}" ''
    mkdir $out
    head -c ${toString (payloadMiB * 1048576)} /dev/urandom > $out/blob
  '';

  # However long the switch takes on a machine under load, the service must be active at its end.
  afterSwitch = "while pgrep -f '[s]witch-to-configuration' > /dev/null; do sleep 0.1; done";
  app = build "app-${generation}" ''
    mkdir -p $out/bin $out/share
    ${if payloadMiB == 0 then "" else "ln -s ${payload} $out/share/payload"}
    ${put "$out/bin/app" ''
      #!/bin/sh
      echo app generation ${generation} on ${hostName}
    ''}
    ${put "$out/bin/app-daemon" ''
      #!/bin/sh
      echo app generation ${generation}
      ${{
        unit = "exit 1";
        unhealthy = "${afterSwitch}; sleep 1; exit 1";
        flapping = "${afterSwitch}; sleep 0.2; exit 1";
      }.${fault} or "exec sleep infinity"}
    ''}
    chmod +x $out/bin/*
  '';

  linux = build "linux-${kernel}" ''
    mkdir -p $out/lib/modules
    echo ${kernel} | tee $out/bzImage $out/initrd > $out/lib/modules/version
  '';

  agentProgram = builtins.path { path = agent; name = "nixfleet-agent"; };
  agentPath = "Environment=PATH=/run/current-system/sw/bin";
  agentUnits = {
    "nixfleet-agent.service" = ''
      [Unit]
      Description=NixFleet agent
      After=network.target
      StartLimitIntervalSec=0
      X-RestartIfChanged=false
      [Service]
      ExecStart=${if fault == "agent-crash" then "/bin/sh -c 'exit 70'" else "${agentProgram} run --config /etc/nixfleet/agent.toml"}
      Restart=always
      RestartSec=100ms
      StateDirectory=nixfleet/agent
      RuntimeDirectory=nixfleet
      RuntimeDirectoryPreserve=yes
      ${agentPath}
    '';
    "nixfleet-watchdog.service" = ''
      [Unit]
      Description=NixFleet watchdog
      StartLimitIntervalSec=0
      X-RestartIfChanged=false
      [Service]
      Type=oneshot
      ExecStart=${agentProgram} watchdog --config /etc/nixfleet/agent.toml
      LogLevelMax=notice
      ${agentPath}
    '';
    "nixfleet-watchdog.timer" = ''
      [Unit]
      Description=NixFleet watchdog, each second
      [Timer]
      OnBootSec=1s
      OnUnitActiveSec=1s
      AccuracySec=100ms
    '';
  };

  service = name: command: ''
    [Unit]
    Description=${name}
    [Service]
    ExecStart=${build "${name}-start" (put "$out.tmp" "#!/bin/sh\nPATH=/run/current-system/sw/bin:/usr/sbin:/usr/bin:/bin\n${command}\n" + "chmod +x $out.tmp; mv $out.tmp $out")}
  '';

  units = {
    "app.service" = ''
      [Unit]
      Description=App generation ${generation}
      StartLimitIntervalSec=0
      [Service]
      Type=${if fault == "unit" then "oneshot" else "simple"}
      ExecStart=${app}/bin/app-daemon
      Restart=${if fault == "flapping" then "always" else "no"}
      RestartSec=0.2
    '';
    "network-setup.service" = ''
      [Unit]
      Description=Network
      Before=network.target
      Wants=network.target
      [Service]
      Type=oneshot
      RemainAfterExit=yes
      ExecStart=/bin/sh -c 'PATH=/usr/sbin:/usr/bin:/sbin:/bin; ip link set eth0 ${if fault == "network" then "down" else "up"}'
    '';
  }
  // (if agent == null then { } else agentUnits)
  // builtins.listToAttrs (map (n: {
    name = "${n}.service";
    value = services.${n}.text or (service n services.${n});
  }) (attrNames services));

  etc = build "etc" ''
    s=$out/etc/systemd/system
    mkdir -p $s/multi-user.target.wants $s/timers.target.wants
    ${lines (n: t: put "$s/${n}" t) units}
    for u in $s/*.service; do case $u in */nixfleet-watchdog.service) ;; *) ln -s ../''${u##*/} $s/multi-user.target.wants/ ;; esac; done
    for u in $s/*.timer; do [ ! -e $u ] || ln -s ../''${u##*/} $s/timers.target.wants/; done
    ${put "$out/etc/hostname" "${hostName}\n"}
    ${put "$out/etc/os-release" ''
      ID=nixos
      NAME=NixOS
      PRETTY_NAME="NixOS 24.11 (testbed)"
      VERSION_ID="24.11"
    ''}
    ${lines (n: t: put "$out/etc/${n}" t) files}
  '';

  # The programs that a NixOS system has in its path: here the machine's.
  programs = "nix nix-build nix-channel nix-collect-garbage nix-copy-closure nix-daemon nix-env nix-instantiate nix-store"
    + " systemctl journalctl systemd-run systemd-analyze systemd-inhibit busctl loginctl hostnamectl"
    + " bash sh env cat ls ln cp mv rm mkdir rmdir readlink realpath stat touch chmod chown id head tail wc sort tr cut date"
    + " sleep sync true false test uname hostname df du find grep sed awk ip nft mount umount findmnt ps kill getent flock"
    + " timeout tee xargs zstd gzip tar git ssh";
in
build "nixos-system-${hostName}-24.11.${generation}" ''
  mkdir -p $out/bin $out/sw/bin $out/specialisation
  ln -s ${app}/bin/* $out/sw/bin/
  ${if agent == null then "" else "ln -s ${agentProgram} $out/sw/bin/nixfleet-agent"}
  for p in ${programs}; do
    for d in /usr/bin /usr/sbin /bin /sbin; do
      [ ! -e $d/$p ] || { ln -s $d/$p $out/sw/bin/$p; break; }
    done
  done
  ln -s ${etc}/etc $out/etc
  ln -s ${linux}/bzImage $out/kernel
  ln -s ${linux}/initrd $out/initrd
  ln -s ${linux} $out/kernel-modules
  ln -s /usr $out/systemd
  printf %s ${quote params} > $out/kernel-params
  printf %s ${quote (builtins.toJSON inhibitors)} > $out/switch-inhibitors
  printf 'systemd 2' > $out/init-interface-version
  printf %s 24.11.${generation} > $out/nixos-version
  printf %s ${system} > $out/system
  install() { sed -e "s|@out@|$out|g" -e "s|@fault@|${fault}|g" $1 > $2; }
  install ${./init.sh} $out/init
  install ${./activate.sh} $out/activate
  install ${./dry-activate.sh} $out/dry-activate
  install ${./switch-to-configuration.sh} $out/bin/switch-to-configuration
  chmod +x $out/init $out/activate $out/dry-activate $out/bin/switch-to-configuration
''
