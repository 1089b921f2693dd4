// SPDX-License-Identifier: AGPL-3.0-only

package plane_test

import (
	"database/sql"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

// A machine gets its signed entry, and no other gets anything, also of a release that
// is not in memory, and with an entry in the database that nobody signed.
func TestBundleFor_GivesSignedEntriesAlone(t *testing.T) {
	w := newWorld(t)
	w.pin()
	digest := w.register("web-01", "web-02")
	check := func(when string, want map[fleet.MachineID]fleet.Code) {
		t.Helper()
		for id, code := range want {
			b, err := w.plane().BundleFor(t.Context(), id, digest)
			if err == nil {
				_, err = openBundle(b, w, id)
			}
			if fleet.ErrorCode(err) != code {
				t.Errorf("%s, %s: %v, want %q", when, id, err, code)
			}
		}
	}
	check("in memory", map[fleet.MachineID]fleet.Code{"web-01": "", "web-02": "", "web-03": fleet.NotFound})
	w.restart()
	check("in the database", map[fleet.MachineID]fleet.Code{"web-01": "", "web-02": "", "web-03": fleet.NotFound})
	db := must[*sql.DB](t)(sql.Open("sqlite", w.path+"?_pragma=busy_timeout(10000)"))
	defer db.Close()
	_, err := db.ExecContext(t.Context(), "INSERT INTO release_entry SELECT release_digest, 2, 'web-03', store_path, body FROM release_entry WHERE machine_id = 'web-01'")
	if err != nil {
		t.Fatal(err)
	}
	check("beside what nobody signed", map[fleet.MachineID]fleet.Code{"web-01": "", "web-02": "", "web-03": fleet.NotFound})
}
