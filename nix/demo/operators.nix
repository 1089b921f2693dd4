# SPDX-License-Identifier: MIT
# Put your public key here; building with this one in place is an error.
{
  nixfleet.operators.rootSshKeys = [ "REPLACE-WITH-YOUR-SSH-PUBLIC-KEY" ];
}
