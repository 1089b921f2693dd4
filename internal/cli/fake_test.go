// SPDX-License-Identifier: MIT

package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/command"
)

// madeKey is a key as the control plane makes it, before a client binds it.
const madeKey = "nfk_kaaaaaaaaa_secretsecretsecret"

// plane is a control plane that answers what a test tells it to. Its lists have
// pages of two.
type plane struct {
	*httptest.Server
	ca string // PEM file

	mu          sync.Mutex
	keys        []string // of the calls, in order
	paths       []string
	echoes      []string // epochs of the calls, in order
	epoch       string   // of its replies
	machines    []fleet.Machine
	releases    []fleet.Release
	envelopes   map[fleet.Digest][]byte // of the releases
	entries     map[fleet.Digest][][]byte
	made        *api.ReleaseRequest // the last release that was registered
	token       string              // that it makes
	heads       []api.LineHead      // of lines; nil for those of the releases
	anyLine     bool                // the first head is shown as that of each line
	documents   map[string][]byte   // by the end of their path: root, timestamp, revocations, grants
	rollouts    []fleet.Rollout
	assignments []fleet.Assignment
	audit       []fleet.AuditEntry
	events      func(yield func(api.Event) bool) // of the stream, after its first
	onRollout   func()                           // called when a rollout is read
	asked       *api.RolloutRequest              // the last one
	freeze      *fleet.Freeze
	named       []string // calls about machines' names
	retyped     string   // a field of machines that has another type
	hooks       []fleet.Webhook
	letters     []fleet.WebhookDelivery
	bodies      []string // of the calls about webhooks
	policies    []fleet.RolloutPolicy
	budget      *api.BudgetRequest   // the last that was saved
	schedule    *api.ScheduleRequest // the last that was saved
	fail        *fleet.Error         // of every call
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	p.ca = filepath.Join(t.TempDir(), "ca.pem")
	write(t, p.ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})))
	return p
}

// newPlaneOf is newPlane with a certificate that no other plane has.
func newPlaneOf(t *testing.T, name string) *plane {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{Server: httptest.NewUnstartedServer(nil)}
	p.Config.Handler = http.HandlerFunc(p.serve)
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	p.StartTLS()
	t.Cleanup(p.Close)
	p.ca = filepath.Join(t.TempDir(), name+".pem")
	write(t, p.ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return p
}

// bound is the key that p makes, bound to p.
func (p *plane) bound() string {
	return madeKey + "_" + strings.TrimPrefix(p.URL, "https://") + "_" + api.CAHash(p.TLS.Certificates[0].Certificate[0])
}

func (p *plane) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.keys = append(p.keys, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	p.paths = append(p.paths, r.URL.Path)
	p.echoes = append(p.echoes, r.Header.Get(api.EpochHeader))
	w.Header().Set(api.EpochHeader, p.epoch)
	p.mu.Unlock()
	if p.fail != nil {
		refuse(w, p.fail)
		return
	}
	rest := strings.TrimPrefix(r.URL.Path, "/api/v1/")
	words := strings.Split(rest, "/")
	switch {
	case rest == "machines" && r.Method == http.MethodPost:
		p.rename(w, r)
	case rest == "machines" && p.retyped != "":
		page(w, r, retype(p.machines, p.retyped))
	case rest == "machines":
		page(w, r, p.machines)
	case rest == "releases" && r.Method == http.MethodPost:
		p.made = &api.ReleaseRequest{}
		if err := json.NewDecoder(r.Body).Decode(p.made); err != nil {
			refuse(w, fleet.Errorf(fleet.Invalid, "%s", err))
			return
		}
		reply(w, fleet.Release{})
	case rest == "releases":
		page(w, r, p.releases)
	case rest == "lines":
		page(w, r, p.lines())
	case words[0] == "lines":
		for _, l := range p.lines() {
			if string(l.Line) == words[1] || p.anyLine {
				reply(w, l)
				return
			}
		}
		refuse(w, fleet.Errorf(fleet.NotFound, "no line %s", words[1]))
	case rest == "rollouts" && r.Method == http.MethodPost:
		p.asked = &api.RolloutRequest{}
		if err := json.NewDecoder(r.Body).Decode(p.asked); err != nil {
			refuse(w, fleet.Errorf(fleet.Invalid, "%s", err))
			return
		}
		reply(w, api.RolloutDetail{Rollout: fleet.Rollout{ID: "01new", Spec: p.asked.Spec}})
	case rest == "rollouts":
		page(w, r, p.rollouts)
	case words[0] == "rollouts" && len(words) == 2:
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.onRollout != nil {
			p.onRollout()
		}
		for _, ro := range p.rollouts {
			if string(ro.ID) == words[1] {
				reply(w, api.RolloutDetail{Rollout: ro, Batches: []fleet.Batch{}})
				return
			}
		}
		refuse(w, fleet.Errorf(fleet.NotFound, "no rollout %s", words[1]))
	case words[0] == "rollouts" && words[2] == "waiting":
		reply(w, []api.Waiting{{Batch: -1, State: "running", Why: "batch 1 is at work"}, {Machine: "web-01", State: "offered", Why: "offered, has not begun"}})
	case words[0] == "rollouts" && words[2] == "events":
		happened := []api.Event{{ID: 1, Rollout: &p.rollouts[0]}, {ID: 2, Batch: &fleet.Batch{State: fleet.BatchOpen, Size: 1, Why: p.rollouts[0].Why}}}
		for _, as := range p.assignments {
			happened = append(happened, api.Event{ID: 3, Assignment: &as}, api.Event{ID: 4, Report: &fleet.Report{Machine: as.Machine, Kind: fleet.ReportOutcome, Outcome: fleet.OutcomeLive, Message: as.Message}})
		}
		page(w, r, happened)
	case words[0] == "rollouts" && words[2] == "assignments":
		list := p.assignments
		if state := r.URL.Query().Get("state"); state != "" {
			list = slices.DeleteFunc(slices.Clone(list), func(a fleet.Assignment) bool { return string(a.State) != state })
		}
		page(w, r, list)
	case words[0] == "rollouts" && len(words) == 3 && r.Method == http.MethodPost:
		reply(w, api.RolloutDetail{Rollout: p.rollouts[0], Batches: []fleet.Batch{}})
	case words[0] == "keys" && r.Method == http.MethodPost:
		reply(w, api.NewKey{Key: fleet.Key{ID: "kaaaaaaaaa", Owner: "alice", Role: fleet.RoleAdmin}, Secret: madeKey})
	case words[0] == "trust":
		p.trust(w, r, words[1])
	case rest == "audit/head":
		head := fleet.AuditHead{Size: int64(len(p.audit))}
		if n := len(p.audit); n > 0 {
			head.Head = p.audit[n-1].Hash
		}
		reply(w, head)
	case rest == "audit":
		page(w, r, p.audit)
	case rest == "freeze":
		p.hold(w, r)
	case words[0] == "schedules":
		p.timetable(w, r, words[1:])
	case words[0] == "budgets":
		p.budgets(w, r, words[1:])
	case words[0] == "policies":
		p.preset(w, r, words[1:])
	case rest == "machines/web-1/rename", words[0] == "machines" && r.Method == http.MethodDelete:
		p.rename(w, r)
	case words[0] == "webhooks":
		p.hooked(w, r, words)
	case rest == "events":
		p.stream(w, r)
	case words[0] == "releases" && len(words) == 2:
		for _, re := range p.releases {
			if string(re.Digest) == words[1] {
				reply(w, api.ReleaseDetail{Release: re, Envelope: p.envelopes[re.Digest], Entries: append([][]byte{}, p.entries[re.Digest]...)})
				return
			}
		}
		refuse(w, fleet.Errorf(fleet.NotFound, "no release %s", words[1]))
	case words[0] == "machines" && len(words) >= 2:
		if len(words) == 3 && words[2] == "reports" {
			page(w, r, []fleet.Report{{Machine: "web-01", Kind: fleet.ReportOutcome, Message: "one\x1b[2Jtwo\tthree"}})
			return
		}
		if len(words) == 3 && words[2] == "token" {
			reply(w, api.Token{Token: p.token, Machine: fleet.MachineID(words[1]), ExpiresAt: 1})
			return
		}
		reply(w, p.machines[0])
	default:
		refuse(w, fleet.Errorf(fleet.NotFound, "no operation %s %s", r.Method, r.URL.Path))
	}
}

// lines are the newest of each line, as the releases' order has them.
func (p *plane) lines() []api.LineHead {
	if p.heads != nil {
		return p.heads
	}
	var out []api.LineHead
	for _, r := range p.releases {
		if !slices.ContainsFunc(out, func(l api.LineHead) bool { return l.Line == r.Header.Line }) {
			out = append(out, api.LineHead{Line: r.Header.Line, Sequence: r.Header.Sequence, Digest: r.Digest, Envelope: p.envelopes[r.Digest]})
		}
	}
	return out
}

// trust keeps what is put, and gives it again.
func (p *plane) trust(w http.ResponseWriter, r *http.Request, kind string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Method == http.MethodPut {
		var d api.Document
		if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
			refuse(w, fleet.Errorf(fleet.Invalid, "%s", err))
			return
		}
		if p.documents == nil {
			p.documents = map[string][]byte{}
		}
		p.documents[kind] = d.Envelope
		reply(w, d)
		return
	}
	b, ok := p.documents[kind]
	if !ok {
		refuse(w, fleet.Errorf(fleet.NotFound, "no %s", kind))
		return
	}
	reply(w, api.Document{Envelope: b})
}

func (p *plane) stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	id := int64(1)
	send := func(e api.Event) bool {
		id++
		e.ID = id
		b, err := json.Marshal(e)
		if err != nil {
			return false
		}
		_, err = fmt.Fprintf(w, "id: %d\ndata: %s\n\n", e.ID, b)
		w.(http.Flusher).Flush()
		return err == nil && r.Context().Err() == nil
	}
	if send(api.Event{}) && p.events != nil {
		p.events(send)
	}
	<-r.Context().Done()
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, err error) {
	p := api.NewProblem(err)
	w.Header().Set("Content-Type", api.ProblemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

func page[T any](w http.ResponseWriter, r *http.Request, list []T) {
	from, _ := strconv.Atoi(r.URL.Query().Get("cursor")) // none: from the first
	out := api.Page[T]{Items: list[min(from, len(list)):min(from+2, len(list))]}
	if from+2 < len(list) {
		out.Next = strconv.Itoa(from + 2)
	}
	reply(w, out)
}

// retype is a list as a control plane has it in which a field has another type.
func retype[T any](all []T, field string) (out []map[string]any) {
	for _, v := range all {
		item := map[string]any{}
		if b, err := json.Marshal(v); err == nil && json.Unmarshal(b, &item) == nil {
			item[field] = []int{1}
		}
		out = append(out, item)
	}
	return out
}

// user is an operator with a home, in an empty folder.
type user struct {
	t    *testing.T
	home string
	env  map[string]string
}

func newUser(t *testing.T) *user {
	t.Helper()
	u := &user{t: t, home: t.TempDir()}
	u.env = map[string]string{"HOME": u.home}
	t.Chdir(t.TempDir())
	return u
}

// of sets p as the user's control plane.
func (u *user) of(p *plane) *user {
	u.env["NIXFLEET_SERVER"], u.env["NIXFLEET_CA"], u.env["NIXFLEET_API_KEY"] = p.URL, p.ca, "nfk_env"
	return u
}

func (u *user) saveCredentials(server, ca, key string) {
	u.t.Helper()
	pem, err := os.ReadFile(ca)
	if err != nil {
		u.t.Fatal(err)
	}
	write(u.t, filepath.Join(u.home, ".config", "nixfleet", "credentials.toml"),
		fmt.Sprintf("server = %q\nkey = %q\nca = %q\n", server, key, pem))
}

type result struct {
	code        int
	out, stderr string
}

func (u *user) run(args ...string) result {
	u.t.Helper()
	var out, stderr bytes.Buffer
	code := Run(u.t.Context(), command.Invocation{
		Version: "test", Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &stderr,
		Env: func(k string) string { return u.env[k] },
	})
	return result{code, out.String(), stderr.String()}
}

// mustRun is run, and fails the test unless the exit code is code.
func (u *user) mustRun(code int, args ...string) result {
	u.t.Helper()
	r := u.run(args...)
	if r.code != code {
		u.t.Fatalf("nixfleet %s: exit code %d, want %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), r.code, code, r.out, r.stderr)
	}
	return r
}

// oneJSON fails unless text is exactly one JSON document.
func oneJSON(t *testing.T, text string) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("stdout is no JSON: %v\n%s", err, text)
	}
	if err := d.Decode(new(any)); err != io.EOF {
		t.Fatalf("stdout has more than one document: %v\n%s", err, text)
	}
	return v
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func machine(id string, tags ...fleet.Tag) fleet.Machine {
	return fleet.Machine{ID: fleet.MachineID(id), Lifecycle: fleet.Active, Tags: fleet.NewTags(nil, tags), Checks: []fleet.HealthCheckResult{}}
}

func release(digit, name string, seq uint64) fleet.Release {
	return fleet.Release{
		Digest: fleet.Digest("sha256:" + digit + strings.Repeat("0", 64-len(digit))),
		Header: fleet.Header{FleetID: "test", Line: "main", Sequence: seq, Name: name},
	}
}

func flatten(c *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		out = append(out, flatten(sub)...)
	}
	return out
}
