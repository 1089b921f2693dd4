// SPDX-License-Identifier: AGPL-3.0-only

package health

import (
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
)

func TestStateOf_WarnsBeforeTheEnd(t *testing.T) {
	const day = 24 * time.Hour
	end := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		late, after time.Duration // after the end of the certificate
		want        CertificateState
	}{
		{90 * day, -2 * time.Hour, CertificateGood},
		{90 * day, time.Second, CertificateExpired},
		{90 * day, 76 * day, CertificateExpired},
		{90 * day, 76*day + time.Second, CertificateEnding},
		{90 * day, 90 * day, CertificateEnding},
		{90 * day, 90*day + time.Second, CertificateEnded},
		// A window that is shorter than the warning: the warning begins when a
		// machine should have renewed.
		{0, -3 * day, CertificateGood},
		{0, -day + time.Second, CertificateEnding},
		{0, time.Second, CertificateEnded},
		{7 * day, -2 * day, CertificateGood},
		{7 * day, time.Second, CertificateEnding},
	} {
		if got := (Renewal{Late: tc.late}).stateOf(end, end.Add(tc.after)); got != tc.want {
			t.Errorf("%v late, %v after the end: %s, want %s", tc.late, tc.after, got, tc.want)
		}
	}
}

func TestSome_NamesAFew(t *testing.T) {
	for want, ids := range map[string][]fleet.MachineID{
		"machine a":                             {"a"},
		"2 machines (a, b)":                     {"b", "a"},
		"7 machines (a, b, c, d, e and 2 more)": {"a", "b", "c", "d", "e", "f", "g"},
	} {
		if got := some(ids); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
