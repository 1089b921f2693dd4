// SPDX-License-Identifier: MIT

package disk

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

// A report that the control plane does not take leaves the queue, and is kept with
// the reason; of many the newest are.
func TestOutbox_SetsAsideWhatIsRejected(t *testing.T) {
	d := Dir(t.TempDir())
	o, err := OpenOutbox(d.Outbox())
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxRejected + 5 {
		id := fmt.Sprint("r", i)
		if err = o.Put(fleet.Report{ID: id, Machine: "web-01", Kind: fleet.ReportProgress}); err != nil {
			t.Fatal(err)
		}
		if err = o.Reject(map[string]string{id: "reason " + id, "another": "x"}); err != nil {
			t.Fatal(err)
		}
	}
	n, err := d.Rejected()
	if n != (SetAside{maxRejected, maxRejected + 5}) || err != nil || o.Len() != 0 {
		t.Errorf("%+v, %v, %d queued", n, err, o.Len())
	}
	b, err := os.ReadFile((rejected{o.Rejected()}).file(maxRejected + 5))
	if err != nil || !strings.Contains(string(b), `"id":"r104"`) || !strings.Contains(string(b), "reason r104") {
		t.Errorf("%s, %v", b, err)
	}
	if o, err = OpenOutbox(d.Outbox()); err != nil || o.Len() != 0 {
		t.Errorf("opened again: %d queued, %v", o.Len(), err)
	}
}

// A file that is no report does not hold up the queue, and is kept too.
func TestOutbox_SetsAsideWhatCannotBeRead(t *testing.T) {
	d := Dir(t.TempDir())
	o, err := OpenOutbox(d.Outbox())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b", "c"} {
		if err = o.Put(fleet.Report{ID: id, Machine: "web-01", Kind: fleet.ReportProgress}); err != nil {
			t.Fatal(err)
		}
	}
	spoil := func(seq uint64) {
		if werr := os.WriteFile(o.file(seq), []byte("{damaged"), 0o600); werr != nil {
			t.Fatal(werr)
		}
	}
	spoil(1)
	all, err := o.Batch(2)
	if err != nil || len(all) != 2 || all[0].ID != "b" || all[1].ID != "c" {
		t.Errorf("%+v, %v", all, err)
	}
	spoil(2)
	if o, err = OpenOutbox(d.Outbox()); err != nil || o.Len() != 1 {
		t.Fatalf("%d queued, %v", o.Len(), err)
	}
	if n, err := o.SetAside(); n != (SetAside{2, 2}) || err != nil {
		t.Errorf("%+v, %v", n, err)
	}
}
