// SPDX-License-Identifier: MIT

// Program fuzz runs every fuzz target of the repository, one after another, and
// prints one line of JSON at the end. It finds the targets in the source. A target
// that fails leaves its input in testdata/fuzz beside it, as go test does.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/internal/proc"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// target is a fuzz target.
type target struct{ dir, name string }

func (t target) String() string { return "./" + t.dir + " " + t.name }

// result is the last line.
type result struct {
	Targets int      `json:"targets"`
	Failed  int      `json:"failed"`
	Seconds int      `json:"seconds"`
	Failing []string `json:"failing,omitempty"`
}

func run(ctx context.Context, args []string, out, complain io.Writer) int {
	flags := flag.NewFlagSet("fuzz", flag.ContinueOnError)
	flags.SetOutput(complain)
	each := flags.Duration("time", time.Minute, "`how long` to run each target")
	only := flags.String("only", "", "run the targets that match this `pattern` only")
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	pattern, err := regexp.Compile(*only)
	if err != nil || flags.NArg() > 0 {
		fmt.Fprintf(complain, "fuzz: -only %q: %v; it takes no arguments\n", *only, err)
		return exitUsage
	}
	targets, err := find(".")
	if err != nil {
		fmt.Fprintf(complain, "fuzz: look for targets: %v\n", err)
		return exitFailed
	}
	targets = slices.DeleteFunc(targets, func(t target) bool { return !pattern.MatchString(t.String()) })
	if len(targets) == 0 {
		fmt.Fprintln(complain, "fuzz: there is no such target here; run it at the top of the repository")
		return exitUsage
	}
	r, began := result{}, time.Now()
	for i, t := range targets {
		if ctx.Err() != nil {
			fmt.Fprintln(complain, "fuzz: interrupted")
			return exitFailed
		}
		fmt.Fprintf(complain, "%d of %d: %s, for %s\n", i+1, len(targets), t, *each)
		r.Targets++
		if !fuzz(ctx, t, *each, complain) {
			r.Failed++
			r.Failing = append(r.Failing, t.String())
		}
	}
	r.Seconds = int(time.Since(began).Seconds())
	if err := json.NewEncoder(out).Encode(r); err != nil || r.Failed > 0 {
		return exitFailed
	}
	return 0
}

// fuzz runs a target. It bounds the time for making an input smaller: go test would
// spend a minute on each one that is new, and try no other meanwhile.
func fuzz(ctx context.Context, t target, each time.Duration, complain io.Writer) bool {
	var failure strings.Builder
	_, err := proc.Run(ctx, proc.Cmd{
		Path: "go", Timeout: 2*each + 10*time.Minute, // the longer part is for compiling
		Args: []string{"test", "-run", "^$", "-fuzz", "^" + t.name + "$", "-fuzztime", each.String(), "-fuzzminimizetime", "1s", "./" + t.dir},
		OnLine: func(_ proc.Stream, line string) {
			if strings.HasPrefix(line, "fuzz: elapsed") {
				fmt.Fprintln(complain, "  "+line)
				return
			}
			failure.WriteString("  " + line + "\n")
		},
	})
	if err != nil {
		fmt.Fprint(complain, failure.String())
		fmt.Fprintf(complain, "  %s: %v\n", t, err)
	}
	return err == nil
}

// find returns the fuzz targets below a folder, by package and name.
func find(top string) ([]target, error) {
	var out []target
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "bin", "vendor", "testdata"}, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(p, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Fuzz") {
				out = append(out, target{filepath.ToSlash(filepath.Dir(p)), f.Name.Name})
			}
		}
		return nil
	})
	slices.SortFunc(out, func(a, b target) int { return strings.Compare(a.String(), b.String()) })
	return out, err
}
