// SPDX-License-Identifier: AGPL-3.0-only

package server

import (
	"encoding/csv"
	"strings"
	"testing"
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
