// SPDX-License-Identifier: AGPL-3.0-only

package health

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

// CertificateState is how far a machine is from having to be enrolled again.
type CertificateState string

// The states of a machine's certificate, best first.
const (
	CertificateGood    CertificateState = "good"
	CertificateExpired CertificateState = "expired" // its machine renews it when it is online again
	CertificateEnding  CertificateState = "ending"  // the same, and soon no more
	CertificateEnded   CertificateState = "ended"   // its machine has to be enrolled again
)

// CertificateStates lists the states, best first.
func CertificateStates() []CertificateState {
	return []CertificateState{CertificateGood, CertificateExpired, CertificateEnding, CertificateEnded}
}

const (
	// nearEnd is how long before the end of a late renewal a machine is near it.
	nearEnd = 14 * 24 * time.Hour
	// overdue is what is left of a certificate that its machine, which renews at
	// half life, should have renewed.
	overdue = 24 * time.Hour
)

// Renewal is how long a machine can be away. The zero value is a control plane
// that renews in time only.
type Renewal struct {
	Late    time.Duration // after its end a certificate can still be renewed
	OtherCA bool          // certificates are not the control plane's
}

// stateOf judges a certificate that ends at a time.
func (r Renewal) stateOf(end, now time.Time) CertificateState {
	switch {
	case now.After(end.Add(r.Late)):
		return CertificateEnded
	case now.After(end.Add(-overdue)) && now.After(end.Add(r.Late-nearEnd)):
		return CertificateEnding
	case now.After(end):
		return CertificateExpired
	}
	return CertificateGood
}

// certificates sorts the machines that take part, or rest, by the states of
// their certificates, and tells when the first of each can renew no more.
func (i *Inspector) certificates(ctx context.Context) (map[CertificateState][]fleet.MachineID, time.Time, error) {
	if i.renewal.OtherCA {
		return nil, time.Time{}, nil
	}
	ends, err := i.loop.Store.CertificateEnds(ctx)
	if err != nil {
		return nil, time.Time{}, err
	}
	now, first := i.loop.Clock.Now(), time.Time{}
	out := map[CertificateState][]fleet.MachineID{}
	i.loop.Inventory.Each(i.loop.Moment().Run, func(m fleet.Machine) {
		at, ok := ends[m.ID]
		if !ok || m.Lifecycle != fleet.Active && m.Lifecycle != fleet.Maintenance {
			return
		}
		end := time.UnixMilli(at)
		s := i.renewal.stateOf(end, now)
		out[s] = append(out[s], m.ID)
		if last := end.Add(i.renewal.Late); s == CertificateEnding && (first.IsZero() || last.Before(first)) {
			first = last
		}
	})
	return out, first, nil
}

func (i *Inspector) certificateFindings(ctx context.Context) ([]Finding, error) {
	machines, first, err := i.certificates(ctx)
	if err != nil {
		return nil, err
	}
	var found []Finding
	if ids := machines[CertificateEnding]; len(ids) > 0 {
		found = append(found, Finding{
			"warning", "certificates", fmt.Sprintf("%s must be online again soon, the first before %s, or be enrolled again", some(ids), first.UTC().Format(time.DateOnly)),
			"do they reach the control plane? tls.renewLateDays, at most 365, gives them more time",
		})
	}
	if ids := machines[CertificateEnded]; len(ids) > 0 {
		found = append(found, Finding{
			"warning", "certificates", some(ids) + " were away for too long to renew their certificates",
			"enrol each again: nixfleet machine token NAME --replace; or nixfleet machine set-lifecycle NAME decommissioned",
		})
	}
	return found, nil
}

// some names the first of many machines.
func some(ids []fleet.MachineID) string {
	const most = 5
	names := make([]string, 0, most)
	for _, id := range ids[:min(len(ids), most)] {
		names = append(names, string(id))
	}
	text := strings.Join(slices.Sorted(slices.Values(names)), ", ")
	if len(ids) > most {
		text += fmt.Sprintf(" and %d more", len(ids)-most)
	}
	if len(ids) == 1 {
		return "machine " + text
	}
	return fmt.Sprintf("%d machines (%s)", len(ids), text)
}
