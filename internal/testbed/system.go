// SPDX-License-Identifier: MIT

package testbed

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/arcanesys/nixfleet/internal/proc"
)

// System says what to build with system.nix. The zero value is a system without
// faults. See system.nix for what each argument does.
type System struct {
	HostName   string            // empty means web-01
	Generation string            // empty means 1
	Fault      string            // empty means none
	PayloadMiB int               // size of the random bytes in the closure
	Services   map[string]string // name -> whole unit, when it has a [Service] line, or a shell command
	Files      map[string]string // path below /etc -> text
	Agent      string            // path of the agent's program; empty means no agent
	Kernel     string            // empty means 1
	Params     string            // kernel parameters
	Inhibitors map[string]string // component -> version: a switch that changes one is refused
}

// Build builds the system in this machine's store and returns its store path. No
// garbage collector root is made for it.
func (tb *Testbed) Build(ctx context.Context, s System) (string, error) {
	args := []string{"--no-out-link", filepath.Join(tb.dir, "system/system.nix"),
		"--arg", "files", attrs(s.Files, nixString), "--arg", "services", attrs(s.Services, nixService),
		"--arg", "inhibitors", attrs(s.Inhibitors, nixString)}
	for _, a := range [][2]string{{"hostName", s.HostName}, {"generation", s.Generation}, {"fault", s.Fault}, {"kernel", s.Kernel}, {"params", s.Params}} {
		if a[1] != "" {
			args = append(args, "--argstr", a[0], a[1])
		}
	}
	if s.PayloadMiB > 0 {
		args = append(args, "--arg", "payloadMiB", fmt.Sprint(s.PayloadMiB))
	}
	if s.Agent != "" {
		args = append(args, "--arg", "agent", "/. + "+nixString(s.Agent))
	}
	res, err := proc.Run(ctx, proc.Cmd{Path: "nix-build", Args: args, Env: nixEnv()})
	if err != nil {
		return "", fmt.Errorf("build system %s generation %s: %w", s.HostName, s.Generation, err)
	}
	return string(bytes.TrimSpace(res.Stdout)), nil
}

func attrs(m map[string]string, value func(string) string) string {
	var b strings.Builder
	b.WriteString("{ ")
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s = %s; ", nixString(k), value(m[k]))
	}
	b.WriteString("}")
	return b.String()
}

func nixService(s string) string {
	if strings.Contains("\n"+s, "\n[Service]") {
		return "{ text = " + nixString(s) + "; }"
	}
	return nixString(s)
}

func nixString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `${`, `\${`, "\n", `\n`).Replace(s) + `"`
}
