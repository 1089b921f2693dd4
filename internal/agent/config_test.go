// SPDX-License-Identifier: MIT

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

func windowOpen(window string, t time.Time) (bool, error) {
	return config.Reboot{Policy: fleet.RebootWindow, Window: window}.WindowOpen(t)
}

// O08: an agent whose reboot window cannot be judged does not start, and a
// system that declares one is not switched to.
func TestReadConfig_RefusesAnInvalidRebootWindow(t *testing.T) {
	for window, good := range map[string]bool{"0 3 * * * 2h Europe/Paris": true, "0 3 * * * soon": false, "0 3 * * * 2h Mars/Olympus": false} {
		file := filepath.Join(t.TempDir(), "agent.toml")
		text := fmt.Sprintf("machineId = \"web-01\"\n[controlPlane]\nurl = \"https://127.0.0.1:1\"\n[trust]\nrootFile = \"/none\"\n[reboot]\npolicy = \"window\"\nwindow = %q\n", window)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := config.ReadAgent(file)
		_, judged := windowOpen(window, time.Now())
		if (err == nil) != good || (judged == nil) != good || !good && fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("%q: %v, %v", window, err, judged)
		}
	}
}
