# SPDX-License-Identifier: MIT
# Who may log in. Put your own keys here. A build with the placeholders fails.
{
  nixfleet.operators = {
    users.alice = {
      isAdmin = true;
      sshKeys = [ "REPLACE-WITH-YOUR-SSH-PUBLIC-KEY" ];
    };
    # `nixos-anywhere` and `nixos-rebuild --target-host` log in as root.
    rootSshKeys = [ "REPLACE-WITH-YOUR-SSH-PUBLIC-KEY" ];
  };
}
