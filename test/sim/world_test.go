// SPDX-License-Identifier: MIT

package sim

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/agent/host"
	"github.com/arcanesys/nixfleet/internal/agent/states"
	"github.com/arcanesys/nixfleet/internal/config"
	"github.com/arcanesys/nixfleet/internal/trust"
	"github.com/arcanesys/nixfleet/internal/trust/trusttest"
)

// world is a fleet, and what befalls it.
type world struct {
	seed uint64
	dir  string
	log  *slog.Logger
	net  *network

	plane    *controlPlane
	machines []*machine
	fleet    *trusttest.Fleet
	releases []fleet.Digest // by sequence, from 1
	entries  map[fleet.Digest]map[fleet.MachineID]fleet.Entry
	systems  map[fleet.StorePath]system
	// revertWindow is that of all releases.
	revertWindow time.Duration

	admin, second *operator
	ledger        *ledger
	loose         sync.WaitGroup // goroutines that are no agent's

	mu       sync.Mutex
	faults   map[string]int
	story    []string // what befell it
	failures []string
	begun    time.Time
	// crashNow is how long the control plane is down that an answer has just killed;
	// guarded by the network.
	crashNow time.Duration
	healed   atomic.Bool                       // the trouble is over
	ended    map[fleet.RolloutID]fleet.Rollout // rollouts that have, as they were seen
	// attempts are those of the freeze that was seen last.
	attempts map[string]bool
	freezes  int
	offered  map[string]time.Time // when an attempt was seen first
}

// must notes an error that the simulation itself does not expect.
func (w *world) must(err error) {
	if err != nil {
		w.violated("the simulation works", "%v", err)
	}
}

// systemAt is what a store path does; one that no release has does nothing unusual.
func (w *world) systemAt(p fleet.StorePath) system { return w.systems[p] }

// count notes that a fault has happened.
func (w *world) count(kind string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[kind]++
}

// note adds a line to the story.
func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.story = append(w.story, fmt.Sprintf("%8s  ", time.Since(w.begun).Round(time.Second))+fmt.Sprintf(format, args...))
}

func newWorld(t *testing.T, seed uint64, dir string, log *slog.Logger) *world {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &world{
		seed: seed, dir: dir, net: newNetwork(), log: log,
		fleet: trusttest.New(t, "acme", nil), entries: map[fleet.Digest]map[fleet.MachineID]fleet.Entry{},
		systems: map[fleet.StorePath]system{}, revertWindow: time.Duration(1+r.IntN(5)) * time.Minute,
		faults: map[string]int{}, begun: time.Now(), ended: map[fleet.RolloutID]fleet.Rollout{}, offered: map[string]time.Time{},
	}
	w.ledger = newLedger(w)
	watchWriters()
	w.plane = &controlPlane{w: w, dir: filepath.Join(dir, "plane")}
	if err := errors.Join(os.MkdirAll(w.plane.dir, 0o700), os.WriteFile(filepath.Join(dir, "root.json"), w.fleet.RootEnvelope, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := w.plane.start(); err != nil {
		t.Fatal(err)
	}
	w.admin = w.newOperator("10.0.1.1", "")
	var key api.NewKey
	w.admin.expect(http.MethodPost, "/api/v1/keys/bootstrap", api.BootstrapRequest{Secret: bootstrapSecret, Owner: "alice"}, &key)
	w.admin.key = key.Secret
	w.admin.expect(http.MethodPut, "/api/v1/trust/root", api.Document{Envelope: w.fleet.RootEnvelope}, nil)
	w.admin.expect(http.MethodPost, "/api/v1/keys", api.KeyRequest{Owner: "bob", Role: fleet.RoleDeploy}, &key)
	w.second = w.newOperator("10.0.1.2", key.Secret)
	for i := range 3 + r.IntN(4) {
		w.addMachine(i, r)
	}
	var previous fleet.Digest
	for n := range 4 {
		previous = w.addRelease(uint64(n+1), previous, r)
	}
	return w
}

// addMachine registers and enrols a machine.
func (w *world) addMachine(i int, r *rand.Rand) {
	id := fleet.MachineID(fmt.Sprintf("web-%02d", i+1))
	m := &machine{
		w: w, id: id, dir: filepath.Join(w.dir, string(id)), at: w.net.place(fmt.Sprintf("10.0.2.%d", i+1)),
		rng: rand.New(rand.NewPCG(w.seed, uint64(100+i))), trait: trait{mayReboot: r.IntN(4) > 0},
		units: map[string]*unit{}, since: map[fleet.StorePath]time.Time{},
	}
	first := trusttest.Entry(id, "first").StorePath
	m.profile, m.bootDefault = first, first
	policy := fleet.RebootNever
	if m.trait.mayReboot {
		policy = fleet.RebootIfNeeded
	}
	interval, timeout, retries, successes, required := 5.0, 2.0, 1, 1, true
	m.conf = config.Agent{
		MachineID: id, Line: "main", StateDir: string(m.files()), RunDir: filepath.Join(m.dir, "run"),
		ControlPlane: config.AgentControlPlane{URL: "https://" + agentsAddr, LongPollSeconds: 55, PollSeconds: 20},
		Identity:     config.Identity{CertFile: filepath.Join(string(m.files()), "identity", "cert.pem"), KeyFile: filepath.Join(string(m.files()), "identity", "key.pem")},
		Trust:        config.Trust{RootFile: filepath.Join(w.dir, "root.json")},
		Confirm:      config.Confirm{DeadlineSeconds: 30}, Reboot: config.Reboot{Policy: policy},
		Checks: map[string]config.AgentCheck{"app": {
			Kind: fleet.HealthCheckUnit, Unit: "app.service", IntervalSeconds: &interval, TimeoutSeconds: &timeout, Retries: &retries, Successes: &successes, Required: &required,
		}},
	}
	m.text = fmt.Appendf(nil, "machineId = %q\n", id)
	if r.IntN(4) == 0 {
		m.conf.ControlPlane.LongPollSeconds = 0 // one that polls
	}
	for _, dir := range []string{m.conf.RunDir, m.rootsDir(), filepath.Dir(m.conf.Identity.CertFile)} {
		w.must(os.MkdirAll(dir, 0o700))
	}
	w.must(os.WriteFile(filepath.Join(m.dir, "agent.toml"), m.text, 0o600))
	w.must(w.enrol(m))
	j := states.New()
	root, err := trust.PinRoot(w.fleet.RootEnvelope)
	w.must(err)
	j.Trust.Root, j.Trust.Floor = &root, &trust.Floor{}
	w.must(m.files().Journal().Save(j))
	m.mu.Lock()
	m.boot()
	m.mu.Unlock()
	w.machines = append(w.machines, m)
}

// enrol exchanges a token for a certificate, and leaves the files as the agent does.
func (w *world) enrol(m *machine) error {
	w.admin.expect(http.MethodPost, "/api/v1/machines", api.MachineRequest{ID: m.id}, nil)
	var token api.Token
	w.admin.expect(http.MethodPost, "/api/v1/machines/"+string(m.id)+"/token", api.TokenRequest{}, &token)
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(crand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(m.id)}}, key)
	if err != nil {
		return err
	}
	c, err := api.NewAgentClient(api.AgentClientConfig{BaseURL: m.conf.ControlPlane.URL, TLS: w.plane.tls(), DialContext: m.at.dial})
	if err != nil {
		return err
	}
	defer c.Close()
	cert, err := c.Enroll(context.Background(), api.EnrollRequest{Token: token.Token, CSR: csr})
	if err != nil {
		return err
	}
	return errors.Join(
		writeKey(m.conf.Identity.KeyFile, key),
		os.WriteFile(m.conf.Identity.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate}), 0o600),
		os.WriteFile(filepath.Join(filepath.Dir(m.conf.Identity.CertFile), "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.CA}), 0o600),
	)
}

func writeKey(file string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// addRelease signs and registers a release for all machines.
func (w *world) addRelease(sequence uint64, previous fleet.Digest, r *rand.Rand) fleet.Digest {
	h := w.fleet.Header(sequence)
	h.PreviousDigest = previous
	h.CreatedAt, h.Expires = time.Now().Add(-time.Minute).UnixMilli(), time.Now().Add(30*24*time.Hour).UnixMilli()
	h.Policy = fleet.Policy{ConfirmWindowMs: 20_000, RevertWindowMs: w.revertWindow.Milliseconds()}
	bad := r.IntN(4) == 0 // the release, not only single systems of it
	kernel, other := int(sequence)/3, 0
	if r.IntN(3) == 0 {
		other = int(sequence) // another agent
	}
	var entries []fleet.Entry
	var what []system
	for _, m := range w.machines {
		e := trusttest.Entry(m.id, fmt.Sprint("release ", sequence))
		e.System = host.System()
		s := system{sequence: fleet.Sequence(sequence), kernel: kernel, agent: other}
		if bad && r.IntN(2) == 0 || r.IntN(8) == 0 {
			s = broken(s, r)
		}
		entries, what = append(entries, e), append(what, s)
	}
	envelope, raw := w.fleet.Unchecked(h, entries, "acme-release")
	var made fleet.Release
	w.admin.expect(http.MethodPost, "/api/v1/releases", api.ReleaseRequest{Envelope: envelope, Entries: raw}, &made)
	w.entries[made.Digest] = map[fleet.MachineID]fleet.Entry{}
	for i, e := range entries {
		what[i].release = made.Digest
		w.systems[e.StorePath] = what[i]
		w.entries[made.Digest][e.ID] = e
	}
	w.releases = append(w.releases, made.Digest)
	return made.Digest
}

// broken is a system that has something wrong with it.
func broken(s system, r *rand.Rand) system {
	switch r.IntN(7) {
	case 0, 1:
		s.sick = true
	case 2:
		s.code = 1
	case 3:
		s.code, s.half = 2, true
	case 4:
		s.hangs = true
	case 5:
		s.cutsOff = true
	case 6:
		s.agent, s.deadAgent = 1000+int(s.sequence), true
	}
	s.degraded = r.IntN(3) == 0 && s.code == 0
	return s
}

// sleep lets time go by, and does what is due meanwhile. It is for the goroutine of
// the world.
func (w *world) sleep(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(time.Second, time.Until(end)))
		w.crashDue()
		w.plane.tend()
		n := int(time.Since(w.begun) / time.Second)
		for _, m := range w.machines {
			m.tick(n)
		}
		if n%20 == 0 {
			w.look()
		}
	}
}

// end ends everything.
func (w *world) end() {
	w.plane.makeRoom()
	for _, m := range w.machines {
		m.mu.Lock()
		m.on, m.bootAt = false, time.Now().Add(24*time.Hour)
		for _, u := range m.units {
			u.kill()
		}
		p := m.process
		m.mu.Unlock()
		if p != nil {
			p.kill()
		}
		m.at.setCut(refusing)
	}
	for _, o := range []*operator{w.admin, w.second} {
		o.http.CloseIdleConnections()
	}
	if w.plane.store != nil {
		w.must(w.plane.stop())
	}
	w.net.sever(nil)
	w.loose.Wait()
	w.net.pumps.Wait()
}

// ids are the names of some machines, at least one.
func (w *world) ids(r *rand.Rand) []fleet.MachineID {
	var ids []fleet.MachineID
	for _, m := range w.machines {
		if r.IntN(2) == 0 {
			ids = append(ids, m.id)
		}
	}
	if len(ids) == 0 {
		ids = append(ids, w.machines[r.IntN(len(w.machines))].id)
	}
	return ids
}

// ledger is what must not be lost, and what is true of machines. Agents and
// operators write to it.
type ledger struct {
	w  *world
	mu sync.Mutex
	// reports are those that were on a machine's disk.
	reports map[fleet.MachineID]map[string]fleet.Report
	order   map[fleet.MachineID][]string
	// acknowledged are reports that the control plane said it has.
	acknowledged map[fleet.MachineID]map[string]bool
	rollouts     map[fleet.RolloutID]bool // likewise
	heads        map[int64]fleet.Digest   // of the audit trail, by size
	// units are the switches to a target, by machine and order.
	units map[string]map[string]bool
	// lived are the attempts that ended well, by rollout, machine and attempt.
	lived map[string]bool
	gone  map[fleet.MachineID]bool // decommissioned
	// frozen rises when the fleet was frozen; 0 while it is not, or may not be.
	frozen, freezes int
}

func newLedger(w *world) *ledger {
	return &ledger{
		w: w, reports: map[fleet.MachineID]map[string]fleet.Report{}, order: map[fleet.MachineID][]string{},
		acknowledged: map[fleet.MachineID]map[string]bool{}, rollouts: map[fleet.RolloutID]bool{}, heads: map[int64]fleet.Digest{},
		units: map[string]map[string]bool{}, lived: map[string]bool{}, gone: map[fleet.MachineID]bool{},
	}
}

func (l *ledger) queued(r fleet.Report) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reports[r.Machine] == nil {
		l.reports[r.Machine] = map[string]fleet.Report{}
	}
	if _, known := l.reports[r.Machine][r.ID]; !known {
		l.order[r.Machine] = append(l.order[r.Machine], r.ID)
	}
	r.Clean()
	l.reports[r.Machine][r.ID] = r
}

// some returns reports of a machine that were queued so far, in any order.
func (l *ledger) some(id fleet.MachineID, n int, r *rand.Rand) []fleet.Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []fleet.Report
	ids := slices.Clone(l.order[id])
	r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	for _, report := range ids[:min(n, len(ids))] {
		out = append(out, l.reports[id][report])
	}
	return out
}

func (l *ledger) accepted(id fleet.MachineID, reports []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acknowledged[id] == nil {
		l.acknowledged[id] = map[string]bool{}
	}
	for _, r := range reports {
		l.acknowledged[id][r] = true
	}
}

func attemptKey(r fleet.RolloutID, m fleet.MachineID, attempt int) string {
	return fmt.Sprintf("%s %s %d", r, m, attempt)
}

// switches judges an attempt that is about to switch a machine.
func (l *ledger) switches(m *machine, work *states.Work) {
	w, key := l.w, string(m.id)+" "+work.Order.Key()
	l.mu.Lock()
	if l.units[key] == nil {
		l.units[key] = map[string]bool{}
	}
	l.units[key][work.Unit] = true
	n := len(l.units[key])
	l.mu.Unlock()
	if n > 1 {
		w.violated(ordersOnce, "%s switches for %s in %d units: %v", m.id, work.Order.Key(), n, slices.Sorted(maps.Keys(l.units[key])))
	}
	e, signed := w.entries[work.Order.Digest][m.id]
	if !signed || e.StorePath != work.Target.Path {
		w.violated(signedOnly, "%s activates %s for release %s", m.id, work.Target.Path, work.Order.Digest.Short())
	}
	m.mu.Lock()
	floor := m.floor
	m.mu.Unlock()
	if s := w.systemAt(work.Target.Path); s.sequence < floor {
		w.violated(aboveFloor, "%s applies release %d, and its floor is %d", m.id, s.sequence, floor)
	} else if !s.good() {
		w.count(brokenSystem)
	}
}

// outcome compares what a machine is about to report with what it runs.
func (l *ledger) outcome(m *machine, work *states.Work, r fleet.Report) {
	m.mu.Lock()
	running, profile := m.running, m.profile
	switch o := r.Outcome; {
	case o == fleet.OutcomeLive || o == fleet.OutcomeLiveDegraded:
		if running == work.Target.Path {
			m.since[running] = time.Now()
		}
	case o.OnPrevious():
		delete(m.since, work.Target.Path)
	case o == fleet.OutcomeStagedReboot && m.w.systemAt(work.Target.Path).sequence < m.w.systemAt(running).sequence:
		delete(m.since, running) // it was left in time, and waits for the boot
	default:
	}
	m.mu.Unlock()
	l.mu.Lock()
	_, again := l.reports[m.id][r.ID]
	l.mu.Unlock()
	if again {
		return // it is queued once more after a crash; much may have happened since
	}
	want := running
	switch o := r.Outcome; {
	case o == fleet.OutcomeStagedReboot:
		if profile != work.Target.Path {
			l.w.violated(outcomeIsTrue, "%s reports %s, and its profile is %s", m.id, o, profile)
		}
	case o.Success():
		want = work.Target.Path
	case o.OnPrevious():
		want = work.Previous.Path
	default:
	}
	if running != want {
		l.w.violated(outcomeIsTrue, "%s reports %s of %s, and runs %s", m.id, r.Outcome, work.Order.Key(), running)
	}
	if r.Outcome.Success() {
		l.mu.Lock()
		l.lived[attemptKey(r.Rollout, m.id, r.Attempt)] = true
		l.mu.Unlock()
	}
}
