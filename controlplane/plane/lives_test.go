// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/controlplane/health"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// The doctor and the metrics tell when half, and three quarters, of a document's life
// are over.
func TestDoctor_WarnsOfDocumentsThatEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.pin()
		w.register("web-01")
		start := time.Now()
		payload := must[[]byte](t)(trust.NewTimestamp(fleet.Timestamp{
			FleetID: "acme", Version: 1, SignedAt: start.UnixMilli(), Expires: start.Add(100 * time.Hour).UnixMilli(),
		}))
		must[api.Document](t)(w.plane().Documents.PutTimestamp(t.Context(), alice, api.Document{Envelope: w.sign(fleet.TypeTimestamp, payload, w.root)}))
		release := must[api.Page[fleet.Release]](t)(w.plane().Releases(t.Context(), alice, fleet.ReleaseFilter{}, fleet.PageRequest{})).Items[0].Header
		for _, tc := range []struct {
			hours   int64
			warning string
		}{{49, ""}, {51, "51 % of the life of the timestamp is over"}, {76, "76 % of the life of the timestamp is over"}} {
			rest(time.Until(start.Add(time.Duration(tc.hours) * time.Hour)))
			var said []string
			for _, f := range must[[]health.Finding](t)(w.plane().Health.Doctor(t.Context())) {
				if f.Subject == "trust" {
					said = append(said, f.Message)
				}
			}
			text := strings.Join(said, "\n")
			if got := strings.Contains(text, "life of the timestamp"); got != (tc.warning != "") || !strings.Contains(text, tc.warning) {
				t.Errorf("after %d hours: %q", tc.hours, text)
			}
		}
		half := release.CreatedAt + (release.Expires-release.CreatedAt)/2
		rest(time.Until(time.UnixMilli(half).Add(time.Minute)))
		lives := map[string]int{}
		for _, l := range must[health.Metrics](t)(w.plane().Health.Metrics(t.Context())).Lives {
			lives[l.Document] = l.Used
		}
		if lives["release of line main"] != 50 || lives["timestamp"] == 0 {
			t.Errorf("lives %v", lives)
		}
	})
}
