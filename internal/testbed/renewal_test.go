// SPDX-License-Identifier: MIT

package testbed_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/arcanesys/nixfleet/internal/testbed"
)

// The NixOS module's way for a renewed certificate, with a real systemd: a service
// whose user exists only while it runs, and which cannot read the files, sees the new
// ones without a restart.
func TestRenewal_ReachesAServiceWithoutPrivileges(t *testing.T) {
	script, err := os.ReadFile("../../nix/modules/control-plane/tls.sh")
	if err != nil {
		t.Fatal(err)
	}
	ctx, tb := newBed(t)
	m := create(ctx, t, tb, testbed.Spec{Name: "cp-01", System: build(t, tb, testbed.System{Generation: "1"})})
	_, code := m.sh(fmt.Sprintf(`set -e
		mkdir -p /root/tls /run/systemd/system
		chmod 700 /root/tls
		echo cert-1 > /root/tls/cert
		echo key-1 > /root/tls/key
		chmod 400 /root/tls/*
		printf '#!/bin/sh\nset -eu\nexport TLS_CERT=/root/tls/cert TLS_KEY=/root/tls/key\n' > /run/copy
		cat >> /run/copy <<'END'
%s
END
		chmod 755 /run/copy
		cat > /run/systemd/system/cp.service <<'END'
[Service]
DynamicUser=yes
User=cp
UMask=0077
ProtectHome=yes
RuntimeDirectory=cp
RuntimeDirectoryMode=0700
ExecStartPre=+/run/copy
ExecStart=/bin/sh -c 'cat /root/tls/key && exit 1; while :; do cat $RUNTIME_DIRECTORY/key $RUNTIME_DIRECTORY/cert > $RUNTIME_DIRECTORY/seen; sleep 0.1; done'
ExecReload=+/run/copy
END
		cat > /run/systemd/system/cp-tls.path <<'END'
[Path]
PathChanged=/root/tls/cert
PathChanged=/root/tls/key
END
		cat > /run/systemd/system/cp-tls.service <<'END'
[Unit]
StartLimitIntervalSec=0
[Service]
Type=oneshot
ExecStart=/bin/systemctl try-reload-or-restart cp.service
END
		systemctl daemon-reload
		systemctl start cp.service cp-tls.path`, script))
	if code != 0 {
		t.Fatalf("the units do not start: %d", code)
	}
	seen := "echo $(cat /run/cp/seen)"
	m.eventually(seen, "key-1 cert-1")
	pid := "systemctl show -p MainPID --value cp.service"
	before, _ := m.sh(pid)
	owner, _ := m.sh("stat -c %u /proc/" + before) // its name is known only where libnss-systemd is
	if owner == "0" {
		t.Fatal("the service runs as root")
	}
	m.is("stat -c '%a %u' /run/cp/key /run/cp/cert | sort -u", "400 "+owner)
	m.sh(`cd /root/tls
		echo key-2 > .key && mv .key key
		echo cert-2 > .cert && mv .cert cert`)
	m.eventually(seen, "key-2 cert-2")
	m.is(pid, before)
}
