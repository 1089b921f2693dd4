// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"encoding/csv"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/fleet"
)

func TestWriteCSV_LeavesNoFormula(t *testing.T) {
	var b strings.Builder
	out := csv.NewWriter(&b)
	if err := writeCSV(out, []string{"=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "plain", "a=b", ""}); err != nil {
		t.Fatal(err)
	}
	out.Flush()
	want := "'=1+1,'+1,'-1,'@SUM(A1),'\tx,\"'\rx\",plain,a=b,\n"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

// A list with an entry that cannot be read is not whole, and says so.
func TestWriteAudit_StopsAtWhatIsNoEntry(t *testing.T) {
	var b strings.Builder
	if err := writeAudit(csv.NewWriter(&b), []fleet.AuditEntry{{Seq: 1, Body: "no JSON"}}); err == nil {
		t.Errorf("wrote %q", b.String())
	}
}
