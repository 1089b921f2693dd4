// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/demo"
	"github.com/arcanesys/nixfleet/internal/proc"
	"github.com/arcanesys/nixfleet/internal/testbed"
)

// drill is a walk through docs/guide/keys.md with one machine. Its commands and what
// they print are in the test's log, and in the file that NIXFLEET_TRANSCRIPT names.
type drill struct {
	t     *testing.T
	scene *demo.Scene
	to    io.Writer
}

func newDrill(t *testing.T) *drill {
	t.Helper()
	testbed.Require(t)
	s, err := demo.NewScene(t.Context(), bin, []demo.Actor{{ID: "web-01"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Clean(context.Background()); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	d := &drill{t: t, scene: s, to: t.Output()}
	if name := os.Getenv("NIXFLEET_TRANSCRIPT"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		d.to = io.MultiWriter(d.to, f)
	}
	return d
}

func (d *drill) say(format string, args ...any) { fmt.Fprintf(d.to, "\n# "+format+"\n", args...) }

// run types a command of nixfleet, and returns what it prints. ok says whether it
// has to succeed.
func (d *drill) run(ok bool, args ...string) string {
	d.t.Helper()
	var text bytes.Buffer
	fmt.Fprintf(d.to, "$ nixfleet %s\n", strings.Join(args, " "))
	code, err := d.scene.Run(d.t.Context(), demo.Command{Args: args, Text: io.MultiWriter(&text, indent{d.to})})
	if (err == nil) != ok {
		d.t.Fatalf("nixfleet %s: exit code %d, %v\n%s", strings.Join(args, " "), code, err, &text)
	}
	return text.String()
}

type indent struct{ to io.Writer }

func (i indent) Write(b []byte) (int, error) {
	_, err := fmt.Fprintf(i.to, "  %s", b)
	return len(b), err
}

// key makes a key pair as the guide says, and returns the names of its files.
func (d *drill) key(name string) (secret, public string) {
	d.t.Helper()
	secret, public = filepath.Join(d.scene.Dir, name+".sec"), filepath.Join(d.scene.Dir, name+".pub")
	fmt.Fprintf(d.to, "$ nix-store --generate-binary-cache-key %s %s.sec %s.pub\n", name, name, name)
	if _, err := proc.Run(d.t.Context(), proc.Cmd{Path: "nix-store", Args: []string{"--generate-binary-cache-key", name, secret, public}}); err != nil {
		d.t.Fatal(err)
	}
	return name + ".sec", name + ".pub"
}

// replaceRoot puts a new root document where the project and the flake have it.
func (d *drill) replaceRoot(file string) {
	d.t.Helper()
	fmt.Fprintf(d.to, "$ cp %s trust/root.json\n", file)
	b, err := os.ReadFile(filepath.Join(d.scene.Dir, file))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, to := range []string{"trust/root.json", "fleet/trust/root.json"} {
		if err := os.WriteFile(filepath.Join(d.scene.Dir, to), b, 0o644); err != nil {
			d.t.Fatal(err)
		}
	}
}

// release makes and registers a release of the systems of a generation with its name,
// by these commands.
func (d *drill) release(name string, commands ...[]string) demo.Made {
	d.t.Helper()
	m, err := d.scene.ReleaseBy(d.t.Context(), d.scene.Systems(name, nil), func() (demo.Made, error) {
		for _, args := range commands {
			d.run(true, args...)
		}
		var r struct {
			fleet.Release
			Entries []fleet.Entry `json:"entries"`
		}
		_, err := d.scene.Nixfleet(d.t.Context(), &r, "release", "show", name)
		made := demo.Made{Digest: r.Digest, Machines: map[fleet.MachineID]fleet.StorePath{}}
		for _, e := range r.Entries {
			made.Machines[e.ID] = e.StorePath
		}
		return made, err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

// rollOut rolls a release out and returns how that ended.
func (d *drill) rollOut(name string) (ended fleet.RolloutState) {
	d.t.Helper()
	args := []string{"rollout", "create", "--release", name, "--supersede", "--wait"}
	fmt.Fprintf(d.to, "$ nixfleet %s\n", strings.Join(args, " "))
	var r struct {
		State fleet.RolloutState `json:"state"`
	}
	if _, err := d.scene.Nixfleet(d.t.Context(), &r, append(args, "--strategy", "all-at-once", "--timeout", "120s", "--min-healthy", "300ms", "--healthy-deadline", "90s")...); err != nil {
		d.t.Fatal(err)
	}
	fmt.Fprintf(d.to, "  the rollout is %s\n", r.State)
	return r.State
}

// live expects that a release went live on the machine.
func (d *drill) live(name string, m demo.Made) {
	d.t.Helper()
	if got := d.rollOut(name); got != fleet.RolloutCompleted {
		d.run(true, "machine", "show", "web-01")
		d.t.Fatalf("release %s: the rollout is %s", name, got)
	}
	d.scene.Expect(m)
	if err := d.scene.Compare(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	fmt.Fprintf(d.to, "  web-01 runs %s\n", m.Machines["web-01"])
}

// refused expects that the machine refuses a release for a reason, and runs what it
// ran.
func (d *drill) refused(name string, reason fleet.Reason) {
	d.t.Helper()
	if got := d.rollOut(name); got != fleet.RolloutFailed && got != fleet.RolloutPaused {
		d.t.Fatalf("release %s: the rollout is %s", name, got)
	}
	var m struct{ Reports []fleet.Report }
	if _, err := d.scene.Nixfleet(d.t.Context(), &m, "machine", "show", "web-01"); err != nil {
		d.t.Fatal(err)
	}
	if len(m.Reports) == 0 || m.Reports[0].Reason != reason {
		d.t.Fatalf("release %s: want the reason %s, reports %+v", name, reason, m.Reports)
	}
	fmt.Fprintf(d.to, "  web-01 refused: %s: %s\n", m.Reports[0].Reason, m.Reports[0].Message)
	if err := d.scene.Compare(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

// The drills of docs/guide/keys.md, with a real agent on a host with systemd: it
// follows root documents that old and new keys have signed, refuses what a key signs
// that has lost its role, holds while the timestamp is stale, and accepts a downgrade
// with a grant only. Each attack is tried by who holds the key, against the real
// control plane too.
func TestKeys_DrillsOfTheGuide(t *testing.T) {
	d := newDrill(t)
	ctx := t.Context()
	release := func(name string, keys ...string) []string {
		args := []string{"release", "create", "--name", name}
		for _, k := range keys {
			args = append(args, "--sign-key", k)
		}
		return args
	}
	if err := d.scene.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	d.say("Day to day: one key signs releases")
	d.live("one", d.release("one", release("one", "trust/keys/release.sec")))

	d.say("Two people: bob gets a key, and each release needs both signatures")
	bob, bobPub := d.key("bob-1")
	d.run(true, "trust", "rotate", "--add", "release="+bobPub, "--threshold", "release=2", "--out", "root-2.json")
	d.run(false, "trust", "submit", "root-2.json") // nobody has signed
	d.run(true, "trust", "sign", "--yes", "--sign-key", "trust/keys/root.sec", "root-2.json")
	d.run(true, "trust", "verify", "root-2.json")
	d.run(true, "trust", "submit", "root-2.json")
	d.replaceRoot("root-2.json")
	d.run(false, release("alone", "trust/keys/release.sec")...)
	two := d.release("two", append(release("two"), "--unsigned", "--out", "two.json"),
		[]string{"trust", "sign", "--yes", "--sign-key", "trust/keys/release.sec", "two.json"},
		[]string{"trust", "sign", "--yes", "--sign-key", bob, "two.json"},
		[]string{"release", "register", "two.json"})
	d.live("two", two)

	d.say("A stolen release key: who holds demo-release-1, and bob's, has registered a release")
	stolen := d.release("stolen", release("stolen", "trust/keys/release.sec", bob))
	carol, carolPub := d.key("carol-1")
	d.run(true, "trust", "rotate", "--replace", "demo-release-1="+carolPub, "--remove", "bob-1", "--threshold", "release=1", "--sign-key", "trust/keys/root.sec", "--out", "root-3.json")
	d.run(true, "trust", "submit", "root-3.json")
	d.replaceRoot("root-3.json")
	d.refused("stolen", fleet.ReasonUnknownKey)
	d.run(false, release("again", "trust/keys/release.sec", bob)...)
	d.run(true, "trust", "revoke", "--release", string(stolen.Digest), "--sign-key", "trust/keys/root.sec")
	d.run(false, "rollout", "create", "--release", "stolen")
	four := d.release("four", release("four", carol))
	d.live("four", four)

	d.say("A timestamp: the fleet notices when something newer is withheld")
	stamp := d.timestamps(carol, release)

	d.say("A grant: one older release, on one machine, for a day")
	d.grants(carol, release)

	d.rootKeys(carol, stamp, release)
	d.run(true, "audit", "verify", "--releases", "3")
	d.run(true, "trust", "show")
}

func (d *drill) timestamps(carol string, release func(string, ...string) []string) (stamp string) {
	stamp, stampPub := d.key("stamp-1")
	d.run(true, "trust", "rotate", "--add", "timestamp="+stampPub, "--sign-key", "trust/keys/root.sec", "--out", "root-4.json")
	d.run(true, "trust", "submit", "root-4.json")
	d.replaceRoot("root-4.json")
	d.run(true, "trust", "timestamp", "--for", "5s", "--sign-key", stamp)
	end := time.Now().Add(5 * time.Second)
	five := d.release("five", release("five", carol))
	if err := d.scene.Until(d.t.Context(), 10*time.Second, "the timestamp has expired", func(context.Context) error {
		if time.Now().Before(end) {
			return fmt.Errorf("it expires at %s", end)
		}
		return nil
	}); err != nil {
		d.t.Fatal(err)
	}
	d.run(true, "rollout", "create", "--release", "five", "--strategy", "all-at-once", "--min-healthy", "300ms", "--healthy-deadline", "120s", "--supersede")
	var m fleet.Machine
	err := d.scene.Until(d.t.Context(), 30*time.Second, "web-01 holds for a fresh timestamp", func(ctx context.Context) error {
		if _, err := d.scene.Nixfleet(ctx, &m, "machine", "show", "web-01"); err != nil {
			return err
		}
		if !strings.HasPrefix(m.Waiting, string(fleet.ReasonStaleTimestamp)) {
			return fmt.Errorf("it waits for %q", m.Waiting)
		}
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	fmt.Fprintf(d.to, "  web-01 waits: %s\n", m.Waiting)
	if err := d.scene.Compare(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	d.run(true, "trust", "timestamp", "--for", "168h", "--sign-key", stamp)
	d.scene.Expect(five)
	if err := d.scene.Until(d.t.Context(), 60*time.Second, "web-01 runs release five", d.scene.Compare); err != nil {
		d.t.Fatal(err)
	}
	fmt.Fprintf(d.to, "  web-01 runs %s\n", five.Machines["web-01"])
	return stamp
}

func (d *drill) grants(carol string, release func(string, ...string) []string) {
	old := d.release("old", release("old", carol))
	d.release("older", release("older", carol))
	for _, name := range []string{"seven", "eight"} {
		d.live(name, d.release(name, release(name, carol)))
	}
	d.refused("old", fleet.ReasonBelowFloor)
	d.run(false, "trust", "grant", "downgrade", "--release", "old", "--on", "web-01", "--for", "25h", "--sign-key", carol)
	d.run(false, "trust", "grant", "downgrade", "--release", "old", "--on", "web-01", "--sign-key", "trust/keys/release.sec")
	d.run(true, "trust", "grant", "downgrade", "--release", "old", "--on", "web-01", "--sign-key", carol)
	d.live("old", old)
	d.refused("older", fleet.ReasonBelowFloor)
}

func (d *drill) rootKeys(carol, stamp string, release func(string, ...string) []string) {
	d.say("A second root key, for the day on which the first is lost")
	spare, sparePub := d.key("spare-1")
	d.run(true, "trust", "rotate", "--add", "root="+sparePub, "--sign-key", "trust/keys/root.sec", "--out", "root-5.json")
	d.run(true, "trust", "submit", "root-5.json")
	d.replaceRoot("root-5.json")

	d.say("A lost root key: the second one replaces it")
	root, rootPub := d.key("root-2")
	d.run(true, "trust", "rotate", "--replace", "demo-root-1="+rootPub, "--sign-key", spare, "--out", "root-6.json")
	d.run(true, "trust", "submit", "root-6.json")
	d.replaceRoot("root-6.json")
	d.run(true, "trust", "revoke", "--again", "--yes", "--sign-key", root)
	d.run(true, "trust", "timestamp", "--sign-key", stamp)
	d.live("nine", d.release("nine", release("nine", carol)))

	d.say("A stolen root key: it is replaced before it is used")
	mallory, malloryPub := d.key("mallory-1")
	third, thirdPub := d.key("root-3")
	d.run(true, "trust", "rotate", "--add", "release="+malloryPub, "--sign-key", spare, "--out", "mallory.json")
	d.run(true, "trust", "rotate", "--replace", "spare-1="+thirdPub, "--sign-key", root, "--out", "root-7.json")
	d.run(true, "trust", "submit", "root-7.json")
	d.replaceRoot("root-7.json")
	d.run(false, "trust", "submit", "mallory.json")
	d.run(false, release("mallory", mallory)...)
	d.run(false, "trust", "rotate", "--add", "release="+malloryPub, "--sign-key", spare, "--out", "mallory-8.json")
	d.live("ten", d.release("ten", release("ten", carol)))
	d.run(true, "trust", "rotate", "--threshold", "root=2", "--sign-key", root, "--sign-key", third, "--out", "root-8.json")
	d.run(true, "trust", "submit", "root-8.json")
}
