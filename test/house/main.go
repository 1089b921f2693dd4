// SPDX-License-Identifier: MIT

// Program house reads what `make test` puts out: the events of `go test -json`, and
// the lines of the checks before it, which are TAP. It prints what go test prints
// without -v, then every test that was skipped. It fails when a package failed or
// did not end and, when CI is set, when something was skipped that the list of
// known skips does not have. With -figures it prints what `make bench-house` has
// measured. It never starts a program.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv("CI") != ""))
}

// run is the program; strict makes skips that are not listed failures.
func run(args []string, in io.Reader, out, complain io.Writer, strict bool) int {
	flags := flag.NewFlagSet("house", flag.ContinueOnError)
	flags.SetOutput(complain)
	listFile := flags.String("skips", "test/skips.txt", "`file` with the known skips: package, test, reason")
	figuresDir := flags.String("figures", "", "print the figures that lie in this `folder` as one line of JSON, and read nothing else")
	skippedFile := flags.String("skipped", "", "write what was skipped to this `file`, as JSON")
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(complain, "house: reads its standard input, and takes no %q\n", flags.Arg(0))
		return exitUsage
	}
	if *figuresDir != "" {
		return printFigures(*figuresDir, out, complain)
	}
	text, err := os.ReadFile(*listFile)
	if err != nil {
		fmt.Fprintf(complain, "house: read list of skips: %v\n", err)
		return exitUsage
	}
	known, err := parseList(string(text))
	if err != nil {
		fmt.Fprintf(complain, "house: %s: %v\n", *listFile, err)
		return exitUsage
	}
	r, err := read(in, out)
	if err != nil {
		fmt.Fprintf(complain, "house: %v\n", err)
		return exitFailed
	}
	if *skippedFile != "" {
		if err := write(*skippedFile, known.explain(r.skips)); err != nil {
			fmt.Fprintf(complain, "house: write what was skipped: %v\n", err)
			return exitFailed
		}
	}
	failures := r.failures
	for _, s := range r.skips {
		if reason, ok := known.reason(s); ok {
			fmt.Fprintf(out, "SKIP %s %s: %s (known: %s)\n", s.Package, s.Test, s.Reason, reason)
			continue
		}
		fmt.Fprintf(out, "SKIP %s %s: %s (not in %s)\n", s.Package, s.Test, s.Reason, *listFile)
		if strict {
			failures = append(failures, fmt.Sprintf("%s %s was skipped, which %s does not know", s.Package, s.Test, *listFile))
		}
	}
	if len(failures) == 0 {
		return 0
	}
	fmt.Fprintln(out, "FAIL")
	for _, f := range failures {
		fmt.Fprintln(out, "    "+f)
	}
	return exitFailed
}

func write(file string, skips []skip) error {
	data, err := json.MarshalIndent(skips, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}
