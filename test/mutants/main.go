// SPDX-License-Identifier: MIT

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// result is the last line of `make hostile`.
type result struct {
	Attacks       int      `json:"attacks"`
	Breaches      int      `json:"breaches"`
	Mutants       int      `json:"mutants"`
	MutantsCaught int      `json:"mutantsCaught"`
	Equivalent    []equal  `json:"equivalent"`
	MutantsTotal  int      `json:"mutantsTotal"`
	Seed          uint64   `json:"seed"`
	Survivors     []string `json:"survivors,omitempty"`
	Faults        []string `json:"faults,omitempty"` // of the list
}

// jobs is how many mutants run at once: most tests wait for something.
const jobs = 2

// What `make hostile` tries at least.
const (
	minAttacks = 60
	minMutants = 80
)

type options struct {
	count   string // a number or "all"
	seed    uint64
	only    string
	list    bool
	fast    bool
	attacks string // a file
	dir     string
}

func run(ctx context.Context, args []string, out, complain io.Writer) int {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	flags.SetOutput(complain)
	var o options
	flags.StringVar(&o.count, "count", "all", "how many mutants are tried, a sample by -seed, or `all`")
	flags.Uint64Var(&o.seed, "seed", 0, "chooses the sample; 0 is one by the clock")
	flags.StringVar(&o.only, "only", "", "only mutants whose names begin with one of these `words`, separated by commas")
	flags.BoolVar(&o.list, "list", false, "print the names of the mutants and run nothing")
	flags.BoolVar(&o.fast, "fast", false, "leave the slow suites out, which may catch what survives")
	flags.StringVar(&o.attacks, "attacks", "", "a `file` with the counts of the attacks, to be part of the line")
	flags.StringVar(&o.dir, "dir", ".", "the module's `folder`")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return 2
	}
	r, err := o.run(ctx, out, complain)
	if err != nil {
		fmt.Fprintln(complain, "mutants:", err)
		return 1
	}
	if o.list {
		return 0
	}
	line, err := json.Marshal(r)
	if err != nil {
		fmt.Fprintln(complain, "mutants:", err)
		return 1
	}
	fmt.Fprintln(out, string(line))
	if len(r.Survivors)+len(r.Faults)+r.Breaches > 0 {
		return 1
	}
	return 0
}

func (o options) run(ctx context.Context, out, complain io.Writer) (result, error) {
	packages := slices.Sorted(maps.Keys(audited))
	m, err := load(ctx, o.dir, packages)
	if err != nil {
		return result{}, err
	}
	all, edits := find(newRule(m), audits)
	if o.list {
		for _, mu := range all {
			fmt.Fprintf(out, "%s (line %d)\n", mu.Name, mu.Line)
		}
		return result{}, nil
	}
	r := result{MutantsTotal: len(all), Equivalent: []equal{}, Seed: cmp.Or(o.seed, uint64(time.Now().Unix()))}
	if o.attacks != "" {
		if err = readAttacks(o.attacks, &r); err != nil {
			return r, err
		}
	}
	chosen, err := o.choose(all, r.Seed)
	if err != nil {
		return r, err
	}
	if o.attacks != "" && (r.Attacks < minAttacks || len(chosen) < minMutants) {
		return r, fmt.Errorf("%d attacks and %d mutants, want at least %d and %d", r.Attacks, len(chosen), minAttacks, minMutants)
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	overlay, err := m.writeOverlay(dir, packages, edits, "-2")
	if err != nil {
		return r, err
	}
	l := &lab{m: m, dir: dir, overlay: overlay, fast: o.fast, programs: map[suite]*program{}, progress: func(format string, args ...any) {
		fmt.Fprintf(complain, format+"\n", args...)
	}}
	return r, l.try(ctx, all, chosen, &r)
}

// choose takes those that were asked for, a sample of them by the seed.
func (o options) choose(all []mutant, seed uint64) ([]mutant, error) {
	begins := strings.Split(o.only, ",")
	chosen := slices.DeleteFunc(slices.Clone(all), func(mu mutant) bool {
		return !slices.ContainsFunc(begins, func(b string) bool { return strings.HasPrefix(mu.Name, b) })
	})
	if o.count == "all" {
		return chosen, nil
	}
	n, err := strconv.Atoi(o.count)
	if err != nil || n < 1 {
		return nil, fmt.Errorf("-count is %q, not a number above 0 or all", o.count)
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	rnd.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	chosen = chosen[:min(n, len(chosen))]
	slices.SortFunc(chosen, func(a, b mutant) int { return cmp.Compare(number(a.id), number(b.id)) })
	return chosen, nil
}

func number(id string) int {
	n, _ := strconv.Atoi(id) // it was written by us
	return n
}

// try runs the chosen mutants and counts.
func (l *lab) try(ctx context.Context, all, chosen []mutant, r *result) error {
	known, err := readEqual(l.m.dir)
	if err != nil {
		return err
	}
	r.Faults = unknown(known, all)
	if n := len(known); n*20 > len(all) {
		r.Faults = append(r.Faults, fmt.Sprintf("%d of %d mutants are listed as equivalent: more than 5 %%", n, len(all)))
	}
	by := make([]string, len(chosen))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for i, mu := range chosen {
		g.Go(func() (err error) {
			begin := time.Now()
			if by[i], err = l.meet(ctx, mu); err == nil {
				l.progress("%d/%d %s: %s (%s)", i+1, len(chosen), mu.Name, cmp.Or(by[i], "SURVIVED"), time.Since(begin).Round(100*time.Millisecond))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, mu := range chosen {
		r.count(mu.Name, by[i], known)
	}
	return nil
}

// count adds what became of a mutant.
func (r *result) count(name, by string, known map[string]string) {
	r.Mutants++
	why, equivalent := known[name]
	switch {
	case by != "":
		r.MutantsCaught++
		if equivalent {
			r.Faults = append(r.Faults, name+" is listed as equivalent and caught by "+by)
		}
	case equivalent:
		r.Equivalent = append(r.Equivalent, equal{name, why})
	default:
		r.Survivors = append(r.Survivors, name)
	}
}
