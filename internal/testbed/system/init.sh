#!/bin/sh
# SPDX-License-Identifier: MIT
# What NixOS does in stage 2: activate, note what was booted, become systemd.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
fault=@fault@
if [ "$fault" = boot ]; then
  echo "stage 2: cannot boot @out@"
  exit 1
fi
@out@/activate || echo "activation at boot failed"
ln -sfn @out@ /run/booted-system
exec /lib/systemd/systemd "$@"
