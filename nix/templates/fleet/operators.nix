# SPDX-License-Identifier: MIT
# Who may log in. Put your own keys here; building with these in place is an error.
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
