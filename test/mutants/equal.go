// SPDX-License-Identifier: MIT

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// equalFile is relative to the module.
const equalFile = "test/mutants/equivalent.txt"

// equal is a mutant that changes nothing.
type equal struct {
	Mutant string `json:"mutant"`
	Why    string `json:"why"`
}

// readEqual reads the list: a name and a reason on each line.
func readEqual(dir string) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, equalFile))
	if err != nil {
		return nil, err
	}
	known := map[string]string{}
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, why, _ := strings.Cut(line, " ")
		if why = strings.TrimSpace(why); why == "" {
			return nil, fmt.Errorf("%s:%d: %s has no reason", equalFile, i+1, name)
		}
		if _, twice := known[name]; twice {
			return nil, fmt.Errorf("%s:%d: %s is listed twice", equalFile, i+1, name)
		}
		known[name] = why
	}
	return known, nil
}

// unknown names the entries for which there is no mutant.
func unknown(known map[string]string, all []mutant) []string {
	var out []string
	for name := range known {
		if !slices.ContainsFunc(all, func(mu mutant) bool { return mu.Name == name }) {
			out = append(out, "there is no mutant "+name+", which is listed as equivalent")
		}
	}
	slices.Sort(out)
	return out
}

// readAttacks adds what the suite of attacks has counted.
func readAttacks(file string, r *result) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read counts of the attacks: %w", err)
	}
	var counts struct{ Attacks, Breaches int }
	if err := json.Unmarshal(data, &counts); err != nil {
		return fmt.Errorf("read counts of the attacks: %w", err)
	}
	r.Attacks, r.Breaches = counts.Attacks, counts.Breaches
	return nil
}
