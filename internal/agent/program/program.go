// SPDX-License-Identifier: MIT

// Package program is nixfleet-agent as a program: its commands and what they
// print.
//
// It never decides what happens on a machine: internal/agent does.
package program

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/config"
)

// Main runs the program and returns its exit code.
func Main(ctx context.Context, v command.Invocation) int {
	p := newProgram(v)
	return p.End(p.Execute(ctx, p.root()))
}

// program is what the commands share.
type program struct {
	*command.Line
	options agent.Options
}

func newProgram(v command.Invocation) *program {
	log := slog.New(slog.NewTextHandler(v.Stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	return &program{command.New(v), agent.Options{Version: v.Version, Log: log}}
}

// withoutTime leaves out what the systemd journal records by itself.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{Use: "nixfleet-agent", Short: "Brings this machine to the releases that its fleet's signers made"}
	root.PersistentFlags().StringVar(&p.options.ConfigFile, "config", "/"+config.AgentFile, "configuration file")
	version := p.VersionCommand("nixfleet-agent")
	p.JSONFlag(version.Flags())
	root.AddCommand(
		&cobra.Command{
			Use: "run", Short: "Run the agent", Example: "  nixfleet-agent run --config /etc/nixfleet/agent.toml", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return agent.Run(c.Context(), p.options) },
		},
		&cobra.Command{
			Use: "watchdog", Short: "Roll back to the previous system if the new one was not confirmed in time", Example: "  nixfleet-agent watchdog", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return agent.Watchdog(c.Context(), p.options) },
		},
		p.enrollCommand(), p.statusCommand(), p.historyCommand(), p.adoptFloorCommand(), p.repairCommand(), p.configCommand(), version,
	)
	return root
}

func (p *program) enrollCommand() *cobra.Command {
	var tokenFile string
	var anyFloor bool
	c := &cobra.Command{
		Use: "enroll", Short: "Exchange a one-time token for this machine's certificate",
		Long: "Exchange a one-time token for this machine's certificate.\n\nA machine that does not know its floor gets the one that nixfleet machine token put beside the secret: it then\n" +
			"accepts no release of its line that is older. Without it the machine accepts no release until nixfleet-agent\nadopt-floor gives it a floor.",
		Example: "  nixfleet-agent enroll --token-file /run/keys/nixfleet-token", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			id, err := agent.Enroll(c.Context(), p.options, tokenFile, anyFloor)
			if err != nil {
				return err
			}
			return p.Print(id, func(w io.Writer) { fmt.Fprintf(w, "%s is enrolled\n", id) })
		},
	}
	c.Flags().StringVar(&tokenFile, "token-file", "", "file that holds the token (default: identity.tokenFile of the configuration)")
	c.Flags().BoolVar(&anyFloor, "accept-any-floor", false, "if the machine does not know its floor, accept any release as its first, whatever the token says")
	return c
}

func (p *program) statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "status", Short: "Show what the agent is doing", Example: "  nixfleet-agent status --json", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := agent.ReadStatus(p.options)
			if err != nil {
				return err
			}
			return p.Print(s, func(w io.Writer) { _ = s.Text(w) }) // Print returns the error
		},
	}
	p.JSONFlag(c.Flags())
	return c
}

func (p *program) historyCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "history", Short: "List how attempts on this machine ended", Example: "  nixfleet-agent history", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := agent.ReadHistory(p.options)
			if err != nil {
				return err
			}
			if all == nil {
				all = []fleet.Report{}
			}
			return p.Print(all, func(w io.Writer) { _ = agent.HistoryText(w, all) }) // Print returns the error
		},
	}
	p.JSONFlag(c.Flags())
	return c
}

func (p *program) adoptFloorCommand() *cobra.Command {
	var sequence uint64
	c := &cobra.Command{
		Use: "adopt-floor", Short: "Let a machine that does not know its floor accept releases",
		Long:    "Let a machine that does not know its floor accept releases.\n\nA machine that lost its state, or whose enrolment token carried no floor, does not know its floor, and accepts no\nrelease. This gives it one.",
		Example: "  nixfleet-agent adopt-floor --sequence 42", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return agent.AdoptFloor(p.options, sequence) },
	}
	c.Flags().Uint64Var(&sequence, "sequence", 0, "refuse releases of the machine's line below this one; 0 accepts any")
	return c
}

func (p *program) repairCommand() *cobra.Command {
	return &cobra.Command{
		Use: "repair PATH", Short: "Let the agent replace a store path that is in use and not as signed",
		Long: "Let the agent replace a store path that is in use and not as signed.\n\nA release that needs such a path is refused as closure-differs. " +
			"When it is ordered again, the agent\nreplaces the path by the signed archive. Programs that run from the path may fail while that happens.",
		Example: "  nixfleet-agent repair /nix/store/0c5b1xsnnx1bd8cg1mfpz0p3r6sybhgp-openssl-3.0.14", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return agent.AllowRepair(p.options, fleet.StorePath(args[0]))
		},
	}
}

func (p *program) configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Work with configuration files"}
	c.AddCommand(&cobra.Command{
		Use: "check FILE", Short: "Check a configuration file", Example: "  nixfleet-agent config check result/etc/nixfleet/agent.toml", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			a, err := config.ReadAgent(args[0])
			if err != nil {
				return err
			}
			return p.Print(a, func(w io.Writer) {
				fmt.Fprintf(w, "%s is valid: %s, %d checks\n", args[0], a.MachineID, len(a.Checks))
			})
		},
	})
	return c
}
