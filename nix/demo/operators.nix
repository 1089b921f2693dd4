# SPDX-License-Identifier: MIT
# Put your public key here. A build with the placeholder fails.
{
  nixfleet.operators.rootSshKeys = [ "REPLACE-WITH-YOUR-SSH-PUBLIC-KEY" ];
}
