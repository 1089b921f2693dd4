#!/bin/sh
# SPDX-License-Identifier: MIT
set -e
PATH=/usr/sbin:/usr/bin:/sbin:/bin
fault=@fault@
case $fault in
  activation)
    echo "Activation script snippet 'users' failed (1)" >&2
    exit 1
    ;;
  hang) exec sleep infinity ;;
  killer) kill -TERM 0 ;;
esac

# Every entry of the closure's etc is a link through /etc/static; links to entries that no longer exist are removed.
mkdir -p /etc/systemd
ln -sfn @out@/etc /etc/static
(cd @out@/etc && find . -mindepth 1 \( -type f -o -type l \) ! -path './systemd/*') | while read -r f; do
  mkdir -p "/etc/$(dirname "$f")"
  ln -sfn "/etc/static/${f#./}" "/etc/$f.tmp"
  mv -Tf "/etc/$f.tmp" "/etc/$f"
done
find /etc -lname '/etc/static/*' ! -exec test -e {} \; -delete 2> /dev/null || true
ln -sfn /etc/static/systemd/system /etc/systemd/system.tmp
mv -Tf /etc/systemd/system.tmp /etc/systemd/system

ln -sfn @out@ /run/current-system
echo "activated @out@"
