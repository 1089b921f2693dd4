// SPDX-License-Identifier: MIT

package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// What a document says it is decides where it goes; what the control plane does
// not take is refused before anything is sent.
func TestTrustSubmit_GivesEachDocumentToItsOperation(t *testing.T) {
	f := trusttest.New(t, "acme", func(r *fleet.Root) { trusttest.AddKey(r, fleet.TrustRoleTimestamp, "acme-timestamp") })
	const now = trusttest.Now
	release, _ := f.Unchecked(f.Header(1), []fleet.Entry{trusttest.Entry("web-01", "a")}, "acme-release")
	for name, tc := range map[string]struct {
		envelope []byte
		path     string
	}{
		"revocations": {f.Revocations(fleet.Revocations{Version: 1, SignedAt: now}), "/api/v1/trust/revocations"},
		"timestamp":   {f.Timestamp(fleet.Timestamp{Version: 1, SignedAt: now, Expires: now + 1000}), "/api/v1/trust/timestamp"},
		"grant": {f.Grant(fleet.Grant{
			Machines: []fleet.MachineID{"web-01"}, Digest: fleet.SHA256(nil), Kind: fleet.GrantStale, SignedAt: now, Expires: now + 1000,
		}), "/api/v1/trust/grants"},
		"release": {release, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlane(t)
			file := filepath.Join(t.TempDir(), "document.json")
			write(t, file, string(tc.envelope))
			got := newUser(t).of(p).run("trust", "submit", file)
			put := slices.Contains(p.paths, tc.path)
			switch {
			case tc.path != "" && (got.code != command.ExitDone || !put):
				t.Errorf("exit code %d, called %v\n%s", got.code, p.paths, got.stderr)
			case tc.path == "" && (got.code != command.ExitError || len(p.paths) > 0 || !strings.Contains(got.stderr, "nixfleet release register")):
				t.Errorf("exit code %d, called %v\n%s", got.code, p.paths, got.stderr)
			}
		})
	}
}

// operator is a user with a fleet's keys: keys/NAME.sec and keys/NAME.pub by the
// name of the role, and root.json.
func operator(t *testing.T, p *plane) (*user, *trusttest.Fleet) {
	t.Helper()
	u := newUser(t).of(p)
	f := trusttest.New(t, "acme", func(r *fleet.Root) {
		trusttest.AddKey(r, fleet.TrustRoleTimestamp, "acme-timestamp")
		r.Expires = time.Now().AddDate(1, 0, 0).UnixMilli()
		r.Roles[fleet.TrustRoleRelease] = fleet.KeyQuota{Keys: r.Roles[fleet.TrustRoleRelease].Keys, Threshold: 2}
	})
	for _, label := range []string{"acme-root", "acme-release", "acme-release2", "acme-timestamp", "acme-revoker", "acme-operator", "new"} {
		k := trusttest.Key(label)
		name := strings.TrimPrefix(label, "acme-")
		write(t, "keys/"+name+".sec", k.Encode())
		write(t, "keys/"+name+".pub", k.PublicKey().String())
	}
	write(t, "root.json", string(f.RootEnvelope))
	write(t, "nixfleet.toml", "root = \"root.json\"\nfleet = \"acme\"\n")
	p.documents = map[string][]byte{"root": f.RootEnvelope}
	return u, f
}

// unsignedRelease writes a release as `release create --unsigned --out` does.
func unsignedRelease(t *testing.T, f *trusttest.Fleet, file string, edit func(*fleet.Header, []fleet.Entry)) {
	t.Helper()
	h, entries := f.Header(3), []fleet.Entry{trusttest.Entry("db-01", "a"), trusttest.Entry("web-01", "a")}
	h.CreatedAt, h.Expires = time.Now().Add(-time.Hour).UnixMilli(), time.Now().Add(time.Hour).UnixMilli()
	payload, raw, err := trust.NewRelease(h, entries)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(&h, entries)
		if _, raw, err = trust.NewRelease(h, entries); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(api.ReleaseRequest{Envelope: trust.Envelope{PayloadType: fleet.TypeRelease, Payload: payload}.Encode(), Entries: raw})
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, string(b))
}

// Two people sign a release: each sees what it is, nobody counts twice, and it is
// registered only with both signatures.
func TestTrustSign_TwoPeopleSignARelease(t *testing.T) {
	p := newPlane(t)
	u, f := operator(t, p)
	unsignedRelease(t, f, "release.json", nil)
	registered := func() bool { return slices.Contains(p.paths, "/api/v1/releases") }

	r := u.mustRun(command.ExitError, "trust", "sign", "release.json", "--sign-key", "keys/release.sec") // no answer
	if !strings.Contains(r.stderr, "release 3 of line main of fleet acme, for 2 machines") || !strings.Contains(r.stderr, "db-01 gets /nix/store/") ||
		!strings.Contains(r.stderr, "from git+https://example.org/fleet, revision abababab") || !strings.Contains(r.stderr, "nothing was signed") {
		t.Fatalf("what is shown: %s", r.stderr)
	}
	u.mustRun(command.ExitError, "release", "register", "release.json")
	for range 2 { // the same person twice
		r = u.mustRun(command.ExitDone, "trust", "sign", "release.json", "--yes", "--sign-key", "keys/release.sec")
		if !strings.Contains(r.out, "1 of 2 needed") || !strings.Contains(r.out, "signatures are missing") {
			t.Fatalf("one of two: %s", r.out)
		}
	}
	if r = u.mustRun(command.ExitError, "release", "register", "release.json"); !strings.Contains(r.stderr, "threshold-not-met") || registered() {
		t.Fatalf("with one signature: %s", r.stderr)
	}
	u.mustRun(command.ExitError, "trust", "verify", "release.json")
	u.mustRun(command.ExitError, "trust", "sign", "release.json", "--yes", "--sign-key", "keys/root.sec") // another role
	r = u.mustRun(command.ExitDone, "trust", "sign", "release.json", "--yes", "--json", "--sign-key", "keys/release2.sec")
	if v := oneJSON(t, r.out).(map[string]any); v["complete"] != true || v["version"] != 3.0 {
		t.Errorf("both have signed: %s", r.out)
	}
	u.mustRun(command.ExitDone, "trust", "verify", "release.json")
	if r = u.mustRun(command.ExitDone, "release", "register", "release.json"); !strings.Contains(r.out, "release 3 of line main, with 2 machines") || !registered() {
		t.Errorf("registered: %s", r.out)
	}

	// What the entries make is compared with what the header signs.
	unsignedRelease(t, f, "forged.json", func(_ *fleet.Header, e []fleet.Entry) { e[1] = trusttest.Entry("web-01", "evil") })
	if r = u.mustRun(command.ExitError, "trust", "sign", "forged.json", "--yes", "--sign-key", "keys/release.sec"); !strings.Contains(r.stderr, "the entries have the root") {
		t.Errorf("a swapped entry: %s", r.stderr)
	}
	// With a fleet that needs two, one person alone registers nothing.
	if r = u.mustRun(command.ExitError, "release", "create", "--from", "one", "--sign-key", "keys/release.sec"); !strings.Contains(r.stderr, "needs 2 signatures, 1 keys are given") {
		t.Errorf("release create by one: %s", r.stderr)
	}
	u.mustRun(command.ExitUsage, "release", "create", "--unsigned")
	u.mustRun(command.ExitUsage, "trust", "sign", "-", "--sign-key", "keys/release.sec")
}

// The next root document is written unsigned, signed by its people, and pinned
// only then.
func TestTrustRotate_IsSignedByOldAndNew(t *testing.T) {
	p := newPlane(t)
	u, f := operator(t, p)
	u.mustRun(command.ExitUsage, "trust", "rotate", "--add", "root=keys/new.pub") // no --out
	u.mustRun(command.ExitUsage, "trust", "rotate", "--add", "king=keys/new.pub", "--out", "x.json")
	u.mustRun(command.ExitError, "trust", "rotate", "--out", "x.json") // nothing changes
	if _, err := os.Stat("x.json"); err == nil {
		t.Error("a refused rotation left a file")
	}
	r := u.mustRun(command.ExitDone, "trust", "rotate", "--add", "root=keys/new.pub", "--threshold", "root=2", "--remove", "acme-release2", "--threshold", "release=1", "--out", "root-2.json")
	for _, want := range []string{"root document version 2 of fleet acme", "role root: new", "is added", "role root needs 2 keys, before 1", "acme-release2", "is removed"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("what is shown lacks %q: %s", want, r.stderr)
		}
	}
	u.mustRun(command.ExitError, "trust", "rotate", "--years", "3", "--out", "root-2.json") // exists
	u.mustRun(command.ExitError, "trust", "verify", "root-2.json")
	u.mustRun(command.ExitError, "trust", "sign", "root-2.json", "--yes", "--sign-key", "keys/release.sec")
	u.mustRun(command.ExitDone, "trust", "sign", "root-2.json", "--yes", "--sign-key", "keys/root.sec")
	if _, err := trust.AdvanceRoot(f.Root, time.Now().UnixMilli(), read(t, "root-2.json")); err == nil {
		t.Error("a machine follows with one signature of two")
	}
	u.mustRun(command.ExitDone, "trust", "sign", "root-2.json", "--yes", "--sign-key", "keys/new.sec")
	u.mustRun(command.ExitDone, "trust", "verify", "root-2.json")
	next, err := trust.AdvanceRoot(f.Root, time.Now().UnixMilli(), read(t, "root-2.json"))
	if err != nil || next.Version != 2 || next.SignedAt == 0 {
		t.Errorf("a machine gets version %d, %v", next.Version, err)
	}
	u.mustRun(command.ExitDone, "trust", "submit", "root-2.json")
	if string(p.documents["root"]) == string(f.RootEnvelope) {
		t.Error("the control plane has the old root document")
	}
	// The project's root.json is old now.
	if r = u.mustRun(command.ExitError, "trust", "rotate", "--years", "3", "--out", "root-3.json"); !strings.Contains(r.stderr, "version 2 was seen") {
		t.Errorf("from an old root document: %s", r.stderr)
	}
	p.documents["root"] = f.RootEnvelope // the control plane is put back
	if r = u.mustRun(command.ExitError, "trust", "show"); !strings.Contains(r.stderr, "version 2 was seen before") {
		t.Errorf("an older root document: %s", r.stderr)
	}
}

// Versions only rise, lists only grow, and a control plane that shows less than it
// did is refused.
func TestTrustDocuments_NeverGoBelowWhatWasSeen(t *testing.T) {
	p := newPlane(t)
	u, f := operator(t, p)
	made := twoSigned(t, f, f.Header(7))
	p.releases = []fleet.Release{{Digest: made.Digest, Header: made.Header}}
	p.envelopes = map[fleet.Digest][]byte{made.Digest: made.Envelope}
	d := string(made.Digest)

	revoke := func(code int, args ...string) result {
		return u.mustRun(code, append([]string{"trust", "revoke", "--sign-key", "keys/revoker.sec"}, args...)...)
	}
	revoke(command.ExitUsage)
	revoke(command.ExitError, "--certificate", "0A") // upper case
	revoke(command.ExitDone, "--release", d, "--min-sequence", "main=5")
	revoke(command.ExitDone, "--certificate", "0a", "--min-sequence", "staging=2")
	if r := revoke(command.ExitError, "--min-sequence", "main=4"); !strings.Contains(r.stderr, "not lowered") {
		t.Errorf("a lower minimum: %s", r.stderr)
	}
	list, digest, err := trust.ParseRevocations(p.documents["revocations"], f.Root)
	if err != nil || list.Version != 2 || len(list.Releases) != 1 || list.MinSequence["main"] != 5 || list.MinSequence["staging"] != 2 || list.Certificates[0] != "0a" {
		t.Fatalf("list %+v, %v", list, err)
	}

	u.mustRun(command.ExitDone, "trust", "timestamp", "--sign-key", "keys/timestamp.sec")
	u.mustRun(command.ExitDone, "trust", "timestamp", "--for", "1h", "--sign-key", "keys/timestamp.sec")
	ts, err := trust.ParseTimestamp(p.documents["timestamp"], f.Root)
	if err != nil || ts.Version != 2 || ts.Lines["main"] != 7 || ts.Revocations != digest || ts.Expires-ts.SignedAt != 3600_000 {
		t.Fatalf("timestamp %+v, %v", ts, err)
	}
	older := f.Timestamp(fleet.Timestamp{Version: 1, SignedAt: ts.SignedAt, Expires: ts.Expires})
	p.documents["timestamp"] = older
	if r := u.mustRun(command.ExitError, "trust", "timestamp", "--sign-key", "keys/timestamp.sec"); !strings.Contains(r.stderr, "version 2 was seen before") {
		t.Errorf("an older timestamp: %s", r.stderr)
	}
	delete(p.documents, "timestamp") // lost: the next one is newer all the same
	u.mustRun(command.ExitDone, "trust", "timestamp", "--sign-key", "keys/timestamp.sec")
	if ts, err = trust.ParseTimestamp(p.documents["timestamp"], f.Root); err != nil || ts.Version != 3 {
		t.Errorf("after a loss: %+v, %v", ts, err)
	}
	kept := p.documents["revocations"]
	delete(p.documents, "revocations") // lost: the next one revokes all the same
	u.mustRun(command.ExitError, "trust", "timestamp", "--sign-key", "keys/timestamp.sec")
	revoke(command.ExitDone, "--again")
	if list, _, err = trust.ParseRevocations(p.documents["revocations"], f.Root); err != nil || list.Version != 3 || len(list.Releases) != 1 || list.MinSequence["main"] != 5 || list.Certificates[0] != "0a" {
		t.Errorf("after a loss: %+v, %v", list, err)
	}
	p.documents["revocations"] = kept
	if r := revoke(command.ExitError, "--again"); !strings.Contains(r.stderr, "version 3 was seen before") {
		t.Errorf("an older list: %s", r.stderr)
	}
	// New keys sign what the old ones revoked.
	u.mustRun(command.ExitDone, "trust", "rotate", "--replace", "acme-revoker=keys/new.pub", "--sign-key", "keys/root.sec", "--out", "root-2.json")
	u.mustRun(command.ExitDone, "trust", "submit", "root-2.json")
	write(t, "root.json", string(read(t, "root-2.json")))
	u.env["HOME"] = t.TempDir() // another operator, who has seen nothing
	u.mustRun(command.ExitError, "trust", "timestamp", "--sign-key", "keys/timestamp.sec")
	again := []string{"trust", "revoke", "--again", "--sign-key", "keys/new.sec"}
	u.mustRun(command.ExitError, "trust", "revoke", "--certificate", "0b", "--yes", "--sign-key", "keys/new.sec") // it may be anybody's list
	r := u.mustRun(command.ExitError, again...)                                                                   // no answer
	if !strings.Contains(r.stderr, "below sequence 5") || !strings.Contains(r.stderr, "nothing was signed") {
		t.Errorf("by new keys, before the answer: %s", r.stderr)
	}
	u.mustRun(command.ExitDone, append(again, "--yes")...)
	next, err := trust.PinRoot(p.documents["root"])
	if err != nil {
		t.Fatal(err)
	}
	if list, _, err = trust.ParseRevocations(p.documents["revocations"], next); err != nil || list.MinSequence["main"] != 5 {
		t.Errorf("by new keys: %+v, %v", list, err)
	}
	u.mustRun(command.ExitDone, "trust", "timestamp", "--sign-key", "keys/timestamp.sec")
	p.releases = nil
	if r := u.mustRun(command.ExitDone, "trust", "timestamp", "--out", "t.json"); !strings.Contains(r.stderr, "line main has sequence 7") {
		t.Errorf("without the release: %s", r.stderr)
	}
	u.mustRun(command.ExitError, "trust", "submit", "nixfleet.toml")
}

func TestTrustGrant_IsForADayAndByTheOperatorRole(t *testing.T) {
	p := newPlane(t)
	u, f := operator(t, p)
	h := f.Header(2)
	h.Name = "two"
	made := twoSigned(t, f, h)
	lie := made.Header
	lie.Name = "three"
	p.releases = []fleet.Release{{Digest: made.Digest, Header: lie}}
	p.envelopes = map[fleet.Digest][]byte{made.Digest: made.Envelope}
	grant := func(code int, args ...string) result {
		return u.mustRun(code, append([]string{"trust", "grant"}, args...)...)
	}
	short := string(made.Digest)[:16]
	grant(command.ExitUsage, "quarantine-lift", "--release", short, "--on", "web-01")
	grant(command.ExitUsage, "downgrade", "--release", short)
	grant(command.ExitUsage, "downgrade", "--release", short, "--on", "web-*")
	grant(command.ExitUsage, "downgrade", "--release", short, "--on", "web-01", "--for", "25h")
	grant(command.ExitError, "downgrade", "--release", short, "--on", "web-01", "--sign-key", "keys/release.sec")
	grant(command.ExitError, "downgrade", "--release", short, "--on", "web-01") // nobody signs
	if r := grant(command.ExitError, "downgrade", "--release", "three", "--on", "web-01", "--sign-key", "keys/operator.sec"); !strings.Contains(r.stderr, `name "two") as "three"`) {
		t.Errorf("another release under a name: %s", r.stderr)
	}
	if p.documents["grants"] != nil {
		t.Fatal("a grant was handed in")
	}
	grant(command.ExitDone, "downgrade", "--release", short, "--on", "web-01,db-01", "--sign-key", "keys/operator.sec")
	g, err := trust.ParseGrant(p.documents["grants"], f.Root)
	if err != nil || g.Digest != made.Digest || len(g.Machines) != 2 || g.Expires-g.SignedAt != trust.MaxGrantLifeMs {
		t.Errorf("grant %+v, %v", g, err)
	}
	// What the control plane calls by that name has to be a release that was signed.
	p.documents["grants"] = nil
	for name, envelope := range map[string][]byte{"another release": twoSigned(t, f, f.Header(1)).Envelope, "no release": []byte("{}")} {
		p.envelopes[made.Digest] = envelope
		if grant(command.ExitError, "downgrade", "--release", short, "--on", "web-01", "--sign-key", "keys/operator.sec"); p.documents["grants"] != nil {
			t.Errorf("%s: a grant was handed in", name)
		}
	}
}

// What --from signs again is what was signed, whatever the control plane shows.
func TestReleaseCreate_FromTakesSignedEntriesOnly(t *testing.T) {
	p := newPlane(t)
	u, f := operator(t, p)
	h := f.Header(2)
	h.Name = "two"
	made := twoSigned(t, f, h)
	p.releases = []fleet.Release{{Digest: made.Digest, Header: made.Header}}
	p.envelopes = map[fleet.Digest][]byte{made.Digest: made.Envelope}
	create := []string{
		"release", "create", "--from", "two", "--dry-run", "--cache", "https://cache.example.org",
		"--cache-key", trusttest.Key("cache").PublicKey().String(), "--sign-key", "keys/release.sec", "--sign-key", "keys/release2.sec",
	}
	evil, err := json.Marshal(trusttest.Entry("web-01", "evil"))
	if err != nil {
		t.Fatal(err)
	}
	p.entries = map[fleet.Digest][][]byte{made.Digest: {evil}}
	if r := u.mustRun(command.ExitError, create...); !strings.Contains(r.stderr, "the entries have the root") {
		t.Errorf("other entries: %s", r.stderr)
	}
	p.entries[made.Digest] = made.Raw
	if r := u.mustRun(command.ExitDone, create...); !strings.Contains(r.out, "would be release 3 of line main, with 1 machines") {
		t.Errorf("its own entries: %s", r.out)
	}
	p.envelopes[made.Digest] = f.Sign(fleet.TypeRelease, payloadOf(t, made.Envelope), "acme-release", "mallory")
	if r := u.mustRun(command.ExitError, create...); !strings.Contains(r.stderr, "threshold-not-met") {
		t.Errorf("signed by one of two: %s", r.stderr)
	}
}

func payloadOf(t *testing.T, envelope []byte) []byte {
	t.Helper()
	e, err := trust.ParseEnvelope(envelope, fleet.TypeRelease)
	if err != nil {
		t.Fatal(err)
	}
	return e.Payload
}

// Half and three quarters of a life are warned of.
func TestTrustShow_WarnsOfAnEnd(t *testing.T) {
	p := newPlane(t)
	u, f := operator(t, p)
	now := time.Now().UnixMilli()
	const day = 24 * 3600 * 1000
	for _, tc := range []struct {
		over int64 // days of ten
		want string
	}{{4, ""}, {6, "60 % of the life of the timestamp"}, {8, "80 % of the life of the timestamp"}} {
		p.documents["timestamp"] = f.Timestamp(fleet.Timestamp{Version: 1, SignedAt: now - tc.over*day, Expires: now + (10-tc.over)*day})
		r := u.mustRun(command.ExitDone, "trust", "show")
		if got := strings.Contains(r.stderr, "warning:"); got != (tc.want != "") || !strings.Contains(r.stderr, tc.want) {
			t.Errorf("after %d days: %q", tc.over, r.stderr)
		}
	}
	h := f.Header(1)
	h.CreatedAt, h.Expires = now-9*day, now+day
	p.releases = []fleet.Release{{Digest: fleet.SHA256(nil), Header: h}}
	if r := u.mustRun(command.ExitDone, "trust", "show", "--json"); !strings.Contains(r.stderr, "90 % of the life of the newest release of line main") || !strings.Contains(r.out, `"used":90`) {
		t.Errorf("a release: %s %s", r.stderr, r.out)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// twoSigned is a release by both release keys.
func twoSigned(t *testing.T, f *trusttest.Fleet, h fleet.Header) *trust.Release {
	t.Helper()
	envelope, raw := f.Unchecked(h, []fleet.Entry{trusttest.Entry("web-01", "a")}, "acme-release", "acme-release2")
	r, err := trust.CheckRelease(envelope, raw, &f.Root, trusttest.Now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
