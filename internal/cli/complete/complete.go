// SPDX-License-Identifier: MIT

// Package complete is the shell completion of the nixfleet command: names from
// the control plane, and closed lists.
//
// It never reports an error, and never makes a shell wait for more than Time.
package complete

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// Time bounds how long a shell waits for names from the control plane. Names that
// are late are left out.
const Time = 2 * time.Second

// maxCompletions bounds how many names a shell is given.
const maxCompletions = 2000

// Connect returns the client that the command itself would use.
type Connect func() (*api.Client, error)

// lister returns the candidates for a word.
type lister func(ctx context.Context, c *api.Client) []cobra.Completion

// Commands adds completion to each command of a tree, by the names of its flags
// and arguments. The shell completes the names of files.
func Commands(root *cobra.Command, connect Connect) {
	machine, release, rollout := connect.oneOf(machineIDs), connect.oneOf(releaseNames), connect.oneOf(rolloutNames)
	states := words(fleet.Pending, fleet.Provisioning, fleet.Active, fleet.Maintenance, fleet.Decommissioned)
	flags := map[string]cobra.CompletionFunc{
		"release":    release,
		"on":         connect.listOf(machineIDs),
		"canary":     connect.listOf(machineIDs),
		"strategy":   words(fleet.Canary, fleet.Staged, fleet.AllAtOnce),
		"on-failure": words(fleet.Pause, fleet.RevertBatch, fleet.RevertAll),
		"offline":    words(fleet.OfflineWait, fleet.OfflineSkip, fleet.OfflineFail),
		"lifecycle":  states,
		"role":       words(fleet.RoleAuditor, fleet.RoleReadonly, fleet.RoleDeploy, fleet.RoleAdmin),
		"from":       release,
	}
	arguments := map[string]cobra.CompletionFunc{"MACHINE": machine, "RELEASE": release, "ROLLOUT": rollout, "FROM": release, "TO": release, "STATE": states, "KIND": words(fleet.GrantDowngrade, fleet.GrantStale)}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.CommandPath() == "nixfleet rollout create" {
			_ = c.RegisterFlagCompletionFunc("on", connect.listOf(selectorTerms)) // only here, --on takes tags too
		}
		for name, f := range flags {
			if c.LocalNonPersistentFlags().Lookup(name) != nil {
				_ = c.RegisterFlagCompletionFunc(name, f) // fails only if the flag has one already
			}
		}
		c.ValidArgsFunction = byPosition(strings.Fields(c.Use)[1:], arguments)
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
}

// byPosition completes arguments as the command's usage names them.
func byPosition(usage []string, known map[string]cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(usage) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		name := strings.Trim(usage[len(args)], "[].")
		if f, ok := known[name]; ok {
			return f(cmd, args, word)
		}
		if name == "FILE" || name == "DIR" {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// words completes a closed list.
func words[T ~string](list ...T) cobra.CompletionFunc {
	out := make([]cobra.Completion, len(list))
	for i, w := range list {
		out[i] = string(w)
	}
	return cobra.FixedCompletions(out, cobra.ShellCompDirectiveNoFileComp)
}

// live asks the control plane. After an error there are no names.
func (connect Connect) live(cmd *cobra.Command, list lister) []cobra.Completion {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, Time)
	defer cancel()
	c, err := connect()
	if err != nil {
		return nil
	}
	defer c.Close()
	return list(ctx, c)
}

// oneOf completes a word to a name that the control plane knows.
func (connect Connect) oneOf(list lister) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return beginning(word, connect.live(cmd, list)), cobra.ShellCompDirectiveNoFileComp
	}
}

// listOf completes the last word of a comma-separated list, and keeps a `!`
// before it.
func (connect Connect) listOf(list lister) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		before := word[:strings.LastIndex(word, ",")+1]
		if strings.HasPrefix(word[len(before):], "!") {
			before += "!"
		}
		given := strings.Split(strings.ReplaceAll(before, "!", ""), ",")
		var out []cobra.Completion
		for _, v := range beginning(word[len(before):], connect.live(cmd, list)) {
			if name, _, _ := strings.Cut(v, "\t"); !slices.Contains(given, name) {
				out = append(out, before+v)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

func beginning(word string, names []cobra.Completion) []cobra.Completion {
	return slices.DeleteFunc(names, func(v string) bool { return !strings.HasPrefix(v, word) })
}

// some are the first items of a list: all there are, or what came in time.
func some[T any](ctx context.Context, list func(context.Context, fleet.PageRequest) (api.Page[T], error)) []T {
	var out []T
	for v, err := range api.All(ctx, list) {
		if err != nil || len(out) == maxCompletions {
			break
		}
		out = append(out, v)
	}
	return out
}

func machines(ctx context.Context, c *api.Client) []fleet.Machine {
	return some(ctx, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Machine], error) {
		return c.Machines(ctx, fleet.MachineFilter{}, p)
	})
}

func machineIDs(ctx context.Context, c *api.Client) []cobra.Completion {
	var out []cobra.Completion
	for _, m := range machines(ctx, c) {
		out = append(out, described(string(m.ID), "%s %s", m.Lifecycle, m.Tags.Effective))
	}
	return out
}

// selectorTerms are the machines, then the tags in use.
func selectorTerms(ctx context.Context, c *api.Client) []cobra.Completion {
	var out []cobra.Completion
	count := map[fleet.Tag]int{}
	for _, m := range machines(ctx, c) {
		out = append(out, string(m.ID))
		for _, t := range m.Tags.Effective {
			count[t]++
		}
	}
	var tags []cobra.Completion
	for t, n := range count {
		tags = append(tags, described("@"+string(t), "%d machines", n))
	}
	slices.Sort(tags)
	return append(out, tags...)
}

// releaseNames are latest, the names of releases and the first digits of their
// digests.
func releaseNames(ctx context.Context, c *api.Client) []cobra.Completion {
	out := []cobra.Completion{described("latest", "the newest release")}
	for _, r := range some(ctx, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Release], error) {
		return c.Releases(ctx, fleet.ReleaseFilter{}, p)
	}) {
		what := fmt.Sprintf("%s %d of %s", r.Header.Line, r.Header.Sequence, time.UnixMilli(r.RegisteredAt).Format(time.DateOnly))
		if r.Header.Name != "" {
			out = append(out, described(r.Header.Name, "%s", what))
		}
		out = append(out, described(r.Digest.Short(), "%s", what))
	}
	return out
}

func rolloutNames(ctx context.Context, c *api.Client) []cobra.Completion {
	var out []cobra.Completion
	for _, r := range some(ctx, func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Rollout], error) {
		return c.Rollouts(ctx, fleet.RolloutFilter{}, p)
	}) {
		out = append(out, described(string(r.ID), "%s %s %s", r.State, r.Spec.Release.Short(), r.Spec.Name))
		if r.Spec.Name != "" {
			out = append(out, described(r.Spec.Name, "%s", r.State))
		}
	}
	return out
}

// described is a completion with a note that shells show beside it. Both are one
// line without control characters.
func described(word, note string, args ...any) cobra.Completion {
	note = strings.Join(strings.Fields(fleet.CleanText(fmt.Sprintf(note, args...), 120)), " ")
	return cobra.CompletionWithDesc(strings.Join(strings.Fields(fleet.CleanText(word, 250)), " "), note)
}
