// SPDX-License-Identifier: MIT

// Program nixfleet-agent is what runs on each machine of a fleet.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent"
	"github.com/arcanesys/nixfleet/internal/config"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "nixfleet-agent: "+err.Error())
	if hint := fleet.ErrorHint(err); hint != "" {
		fmt.Fprintln(os.Stderr, "hint: "+hint)
	}
	if fleet.ErrorCode(err) == fleet.Invalid {
		os.Exit(2)
	}
	os.Exit(1)
}

func root() *cobra.Command {
	o := agent.Options{Version: version}
	cmd := &cobra.Command{
		Use: "nixfleet-agent", Short: "Brings this machine to the releases that its fleet's signers made",
		SilenceErrors: true, SilenceUsage: true, Args: cobra.NoArgs,
		PersistentPreRun: func(*cobra.Command, []string) {
			o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
		},
	}
	cmd.PersistentFlags().StringVar(&o.ConfigFile, "config", "/"+config.AgentFile, "configuration file")
	cmd.AddCommand(
		&cobra.Command{
			Use: "run", Short: "Run the agent", Example: "  nixfleet-agent run --config /etc/nixfleet/agent.toml", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return agent.Run(c.Context(), o) },
		},
		&cobra.Command{
			Use: "watchdog", Short: "Go back to the system before if the new one was not confirmed in time", Example: "  nixfleet-agent watchdog", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return agent.Watchdog(c.Context(), o) },
		},
		enroll(&o), status(&o), history(&o), adoptFloor(&o), configCheck(),
		&cobra.Command{
			Use: "version", Short: "Print the version", Example: "  nixfleet-agent version", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				_, err := fmt.Fprintln(c.OutOrStdout(), version)
				return err
			},
		},
	)
	return cmd
}

// withoutTime leaves out what the journal writes anyway.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

func enroll(o *agent.Options) *cobra.Command {
	var tokenFile string
	cmd := &cobra.Command{
		Use: "enroll", Short: "Get this machine's certificate for a one-time token",
		Example: "  nixfleet-agent enroll --token-file /run/keys/nixfleet-token", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			id, err := agent.Enroll(c.Context(), *o, tokenFile)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is enrolled\n", id)
			return err
		},
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file that holds the token (default: identity.tokenFile of the configuration)")
	return cmd
}

func status(o *agent.Options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show what the agent is doing", Example: "  nixfleet-agent status --json", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := agent.ReadStatus(*o)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c, s)
			}
			return s.Text(c.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func history(o *agent.Options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "history", Short: "List how attempts on this machine ended", Example: "  nixfleet-agent history", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := agent.ReadHistory(*o)
			if err != nil {
				return err
			}
			if asJSON {
				if all == nil {
					all = []fleet.Report{}
				}
				return printJSON(c, all)
			}
			return agent.HistoryText(c.OutOrStdout(), all)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func adoptFloor(o *agent.Options) *cobra.Command {
	var sequence uint64
	cmd := &cobra.Command{
		Use: "adopt-floor", Short: "Let a machine that lost its state accept releases again",
		Long:    "A machine that has lost its state does not know below which release it must never go, and accepts none. This gives it a floor.",
		Example: "  nixfleet-agent adopt-floor --sequence 42", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return agent.AdoptFloor(*o, sequence) },
	}
	cmd.Flags().Uint64Var(&sequence, "sequence", 0, "refuse releases of the machine's line below this one; 0 accepts any")
	return cmd
}

func configCheck() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Work with configuration files", Args: cobra.NoArgs}
	cmd.AddCommand(&cobra.Command{
		Use: "check FILE", Short: "Say whether a configuration file is good", Example: "  nixfleet-agent config check result/etc/nixfleet/agent.toml", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			a, err := agent.ReadConfig(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: good: %s, %d checks\n", args[0], a.MachineID, len(a.Checks))
			return err
		},
	})
	return cmd
}

func printJSON(c *cobra.Command, v any) error {
	e := json.NewEncoder(c.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(v)
}
