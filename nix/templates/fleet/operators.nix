# SPDX-License-Identifier: MIT
# Who may log in. Put your own keys here. A build with the placeholders fails.
{
  nixfleet.operators = {
    users.alice = {
      isAdmin = true;
      # The key is enough for sudo, as it is for root below. Or remove this, and set hashedPasswordFile.
      passwordlessSudo = true;
      sshKeys = [ "REPLACE-WITH-YOUR-SSH-PUBLIC-KEY" ];
    };
    # `nixos-anywhere` and `nixos-rebuild --target-host` log in as root.
    rootSshKeys = [ "REPLACE-WITH-YOUR-SSH-PUBLIC-KEY" ];
  };
}
