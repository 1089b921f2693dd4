// SPDX-License-Identifier: MIT

package fleet

import (
	"crypto/ed25519"
	"net/url"
	"strings"
	"testing"
)

func TestEvidenceKeyIn_TakesOneKeyInOneForm(t *testing.T) {
	k := EvidenceKeyOf(ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey))
	other := EvidenceKeyOf(make([]byte, 32))
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for name, tc := range map[string]struct {
		uris []*url.URL
		want EvidenceKey
		ok   bool
	}{
		"none":            {nil, "", true},
		"other names":     {[]*url.URL{uri("spiffe://example.org/web-01")}, "", true},
		"one":             {append(k.URIs(), uri("https://example.org")), k, true},
		"as it is parsed": {[]*url.URL{uri("nixfleet-evidence:" + string(k))}, k, true},
		"two":             {append(k.URIs(), other.URIs()...), "", false},
		"the same twice":  {append(k.URIs(), k.URIs()...), "", false},
		"with a fragment": {[]*url.URL{uri("nixfleet-evidence:" + string(k) + "#x")}, "", false},
		"with a query":    {[]*url.URL{uri("nixfleet-evidence:" + string(k) + "?x")}, "", false},
		"with a host":     {[]*url.URL{uri("nixfleet-evidence://" + string(k)[8:])}, "", false},
		"another kind":    {[]*url.URL{uri("nixfleet-evidence:" + strings.Replace(string(k), "ed25519", "rsa", 1))}, "", false},
		"padded":          {[]*url.URL{uri("nixfleet-evidence:" + string(k) + "=")}, "", false},
		"short":           {[]*url.URL{uri("nixfleet-evidence:ed25519:AAAA")}, "", false},
		"loose last bits": {[]*url.URL{uri("nixfleet-evidence:" + string(other)[:len(other)-1] + "B")}, "", false},
	} {
		got, err := EvidenceKeyIn(tc.uris)
		if got != tc.want || (err == nil) != tc.ok {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
