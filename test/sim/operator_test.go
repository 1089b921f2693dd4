// SPDX-License-Identifier: MIT

package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

// operator calls the operators' API from a place of its own.
type operator struct {
	w    *world
	at   *place
	key  string
	http *http.Client
}

func (w *world) newOperator(address, key string) *operator {
	o := &operator{w: w, at: w.net.place(address), key: key}
	o.http = &http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{TLSClientConfig: w.plane.tls(), DialContext: o.at.dial, IdleConnTimeout: 20 * time.Second}}
	return o
}

// call makes a call. The status is 0 if there was no answer.
func (o *operator) call(method, path string, in, out any) (int, error) {
	return o.callAs("", method, path, in, out)
}

// callAs makes a call under an Idempotency-Key.
func (o *operator) callAs(name, method, path string, in, out any) (int, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "https://"+operatorsAddr+path, body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	if name != "" {
		req.Header.Set(api.IdempotencyKey, name)
	}
	if o.key != "" {
		req.Header.Set("Authorization", "Bearer "+o.key)
	}
	res, err := o.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return 0, err
	case res.StatusCode/100 != 2:
		return res.StatusCode, fmt.Errorf("%s %s: %s: %s", method, path, res.Status, b)
	case out == nil:
		return res.StatusCode, nil
	}
	return res.StatusCode, json.Unmarshal(b, out)
}

// expect makes a call that has to succeed.
func (o *operator) expect(method, path string, in, out any) {
	_, err := o.call(method, path, in, out)
	o.w.must(err)
}

// rollOut starts a rollout that is drawn.
func (o *operator) rollOut(r *rand.Rand) {
	w := o.w
	n := len(w.releases)
	spec := drawSpec(r)
	spec.Release = w.releases[min(r.IntN(n+2), n-1)]
	if r.IntN(3) == 0 {
		for _, id := range w.ids(r) {
			spec.Select = append(spec.Select, string(id))
		}
	}
	spec.Name = fmt.Sprintf("draw-%016x", r.Uint64())
	if r.IntN(3) == 0 && !w.healed.Load() {
		o.at.set(func(p *place) { p.lose++ })
	}
	o.create(spec)
}

// create creates a rollout, under one key for as long as no answer comes.
func (o *operator) create(spec fleet.RolloutSpec) {
	w := o.w
	var made api.RolloutDetail
	var status int
	var err error
	for range 4 { // as the command line does when no answer comes
		status, err = o.callAs(spec.Name, http.MethodPost, "/api/v1/rollouts", api.RolloutRequest{Spec: spec}, &made)
		if status != 0 {
			break
		}
		time.Sleep(5 * time.Second)
	}
	if err != nil {
		w.note("rollout of release %s: %v", spec.Release.Short(), err)
		if internal(status) {
			w.violated(plainRefusals, "create rollout: %v", err)
		}
		return
	}
	w.note("rollout %s of release %d: %+v", made.ID, w.sequenceOf(spec.Release), spec)
	w.ledger.mu.Lock()
	w.ledger.rollouts[made.ID] = true
	w.ledger.mu.Unlock()
}

// internal reports whether a call ended in an internal error. A full disk is told as
// such.
func internal(status int) bool { return status >= 500 && status != http.StatusServiceUnavailable }

func (w *world) sequenceOf(d fleet.Digest) int {
	for i, have := range w.releases {
		if have == d {
			return i + 1
		}
	}
	return 0
}

func drawSpec(r *rand.Rand) fleet.RolloutSpec {
	one := func(n ...int64) int64 { return n[r.IntN(len(n))] }
	s := fleet.RolloutSpec{
		Strategy: []fleet.Strategy{fleet.Canary, fleet.Staged, fleet.AllAtOnce}[r.IntN(3)], Select: []string{},
		OnFailure:      []fleet.OnFailure{fleet.Pause, fleet.RevertBatch, fleet.RevertAll}[r.IntN(3)],
		Offline:        []fleet.OfflinePolicy{fleet.OfflineWait, fleet.OfflineSkip, fleet.OfflineFail}[r.IntN(3)],
		OfflineAfterMs: one(30_000, 120_000), MaxParallel: int(one(0, 0, 1, 2)), MaxFailures: fleet.Amount{N: int(one(0, 0, 1, 2))},
		MinHealthyMs: one(1000, 5000, 10_000), HealthyDeadlineMs: one(90_000, 150_000, 240_000), ProgressDeadlineMs: one(0, 0, 400_000),
		SoakMs: one(0, 0, 10_000, 30_000), StragglerMs: one(0, 0, 120_000),
		Approve: r.IntN(5) == 0, ApproveByOther: r.IntN(8) == 0, Supersede: r.IntN(2) == 0,
	}
	if s.Strategy == fleet.Staged {
		for _, b := range [][]string{{"1", "50%", "100%"}, {"1", "1", "1"}, {"50%"}}[r.IntN(3)] {
			a, err := fleet.ParseAmount(b)
			if err != nil {
				panic(err) // the list is ours
			}
			s.Batches = append(s.Batches, a)
		}
	}
	if r.IntN(4) == 0 {
		s.Windows = []string{"*/10 * * * * 6m"}
	}
	switch r.IntN(8) {
	case 0:
		s.Reboot = fleet.RebootNever
	case 1:
		s.Reboot, s.RebootWindows = fleet.RebootWindow, []string{"*/10 * * * * 3m"}
	}
	if r.IntN(4) == 0 {
		s.MaxFailuresTotal = &fleet.Amount{N: int(one(0, 1, 2))}
	}
	return s
}

// verbs are in the order in which operators like them.
var verbs = []api.Verb{
	api.VerbPause, api.VerbResume, api.VerbResume, api.VerbApprove, api.VerbApprove, api.VerbRetry, api.VerbRetry, api.VerbSkip, api.VerbRevert, api.VerbCancel,
}

// order gives a verb to the newest rollout, or to one before.
func (o *operator) order(r *rand.Rand) {
	w := o.w
	verb := verbs[r.IntN(len(verbs))]
	which, named := r.IntN(3), r.IntN(2) == 0
	ids := w.ids(r)
	var page api.Page[fleet.Rollout]
	if _, err := o.call(http.MethodGet, "/api/v1/rollouts", nil, &page); err != nil || len(page.Items) == 0 {
		return
	}
	id := page.Items[min(which/2, len(page.Items)-1)].ID
	var in api.VerbRequest
	if verb == api.VerbSkip || named && (verb == api.VerbRetry || verb == api.VerbRevert) {
		in.Machines = ids[:1]
	}
	status, err := o.call(http.MethodPost, "/api/v1/rollouts/"+string(id)+"/"+string(verb), in, nil)
	w.note("%s %s %v: %v", verb, id, in.Machines, err)
	if internal(status) {
		w.violated(plainRefusals, "%s: %v", verb, err)
	}
}

// retry has a machine tried again that has failed in one of the newest rollouts.
func (o *operator) retry(id fleet.MachineID) bool {
	var page api.Page[fleet.Rollout]
	if _, err := o.call(http.MethodGet, "/api/v1/rollouts", nil, &page); err != nil {
		return false
	}
	for _, v := range page.Items[:min(3, len(page.Items))] {
		if _, err := o.call(http.MethodPost, "/api/v1/rollouts/"+string(v.ID)+"/retry", api.VerbRequest{Machines: []fleet.MachineID{id}}, nil); err == nil {
			o.w.note("retry %s [%s]: its outcome is late", v.ID, id)
			_, err := o.call(http.MethodPost, "/api/v1/rollouts/"+string(v.ID)+"/resume", api.VerbRequest{}, nil)
			o.w.note("resume %s: %v", v.ID, err)
			return true
		}
	}
	return false
}

// lifecycle sets a machine's.
func (o *operator) lifecycle(id fleet.MachineID, l fleet.Lifecycle) bool {
	_, err := o.call(http.MethodPut, "/api/v1/machines/"+string(id)+"/lifecycle", api.LifecycleRequest{Lifecycle: l}, nil)
	o.w.note("lifecycle of %s to %s: %v", id, l, err)
	return err == nil
}

// freeze freezes the fleet for a while, in which a rollout is created.
func (o *operator) freeze(d time.Duration, r *rand.Rand) {
	w, l := o.w, o.w.ledger
	if _, err := o.call(http.MethodPut, "/api/v1/freeze", api.FreezeRequest{Reason: "drawn"}, nil); err != nil {
		w.note("freeze: %v", err)
	} else {
		w.count(frozen)
		l.mu.Lock()
		l.freezes++
		l.frozen = l.freezes
		l.mu.Unlock()
		time.Sleep(25 * time.Second) // what had begun is seen by then
		o.rollOut(r)
	}
	time.Sleep(25*time.Second + d/2)
	l.mu.Lock()
	l.frozen = 0
	l.mu.Unlock()
	_, err := o.call(http.MethodDelete, "/api/v1/freeze", nil, nil)
	w.note("unfreeze: %v", err)
}

// checkpoint keeps the head of the audit trail.
func (o *operator) checkpoint() {
	var head fleet.AuditHead
	if _, err := o.call(http.MethodGet, "/api/v1/audit/head", nil, &head); err != nil || head.Size == 0 {
		return
	}
	o.w.ledger.mu.Lock()
	defer o.w.ledger.mu.Unlock()
	if have, known := o.w.ledger.heads[head.Size]; known && have != head.Head {
		o.w.violated(auditHolds, "the trail has two heads of size %d", head.Size)
	}
	o.w.ledger.heads[head.Size] = head.Head
}
