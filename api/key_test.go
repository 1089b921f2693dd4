// SPDX-License-Identifier: MIT

package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

func TestParseKey_IsTheInverseOfString(t *testing.T) {
	hash := strings.Repeat("0f", 32)
	for text, want := range map[string]api.KeyParts{
		"":                                {},
		"nfk_x":                           {Secret: "nfk_x"},
		"nfk_id_secret":                   {Secret: "nfk_id_secret"},
		"something_of_another_kind":       {Secret: "something_of_another_kind"},
		"nfk_id_secret_fleet.example.org": {Secret: "nfk_id_secret", Host: "fleet.example.org"},
		"nfk_id_secret_fleet.example.org:8443_" + hash:  {Secret: "nfk_id_secret", Host: "fleet.example.org:8443", CAHash: hash},
		"nfk_id_secret_[2001:db8::1]:8443_" + hash:      {Secret: "nfk_id_secret", Host: "[2001:db8::1]:8443", CAHash: hash},
		"nfk_id_secret_fleet.example.org_" + hash[:63]:  {Secret: "nfk_id_secret", Host: "fleet.example.org_" + hash[:63]}, // cut off: fits no host
		"nfk_id_secret_under_score.example.org_" + hash: {Secret: "nfk_id_secret", Host: "under_score.example.org", CAHash: hash},
	} {
		got, err := api.ParseKey(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%q: got %+v (%q), %v; want %+v", text, got, got.String(), err, want)
		}
	}
	for _, bad := range []string{"nfk_id_secret_", "nfk_id_secret__" + hash, "nfk_id_secret_a/b", "nfk_id_secret_a b", "nfk_id_secret_u@h"} {
		if _, err := api.ParseKey(bad); fleet.ErrorCode(err) != fleet.Invalid || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: got %v, want an invalid error that does not quote it", bad, err)
		}
	}
}

func TestKeyParts_FitOneHost(t *testing.T) {
	for _, tc := range []struct {
		host, base string
		want       bool
	}{
		{"", "https://anywhere.example.org", true},
		{"fleet.example.org:8443", "https://fleet.example.org:8443", true},
		{"fleet.example.org:8443", "https://Fleet.Example.org:8443/", true},
		{"fleet.example.org:8443", "https://fleet.example.org:8444", false},
		{"fleet.example.org:8443", "https://fleet.example.org", false},
		{"fleet.example.org", "https://fleet.example.org:443/below", true},
		{"fleet.example.org", "https://fleet.example.org.evil.example", false},
		{"fleet.example.org", "https://fleet.example.org@evil.example", false},
		{"fleet.example.org", "%", false},
	} {
		err := api.KeyParts{Secret: "nfk_id_secret", Host: tc.host}.Fits(tc.base, nil)
		if (err == nil) != tc.want || err != nil && (fleet.ErrorCode(err) != fleet.Refused || fleet.ErrorHint(err) == "") {
			t.Errorf("%s at %s: got %v, want %t", tc.host, tc.base, err, tc.want)
		}
	}
}

// E09: the client holds this, whatever its caller checks.
func TestNewClient_RefusesAKeyOfAnotherControlPlane(t *testing.T) {
	_, s := serve(t, func(w http.ResponseWriter, _ *http.Request) {})
	other := strings.Repeat("0", 64)
	for _, key := range []string{"nfk_id_secret_other.example.org", "nfk_id_secret_" + s.Listener.Addr().String()} {
		if _, err := api.NewClient(api.ClientConfig{BaseURL: s.URL, Key: key, TLS: trusting(s)}); fleet.ErrorCode(err) != fleet.Refused {
			t.Errorf("%s: got %v, want a refused error", key, err)
		}
	}
	_, s = serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the request was sent") })
	c, err := api.NewClient(api.ClientConfig{BaseURL: s.URL, Key: "nfk_id_secret_" + s.Listener.Addr().String() + "_" + other, TLS: trusting(s)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Whoami(t.Context()); fleet.ErrorCode(err) != fleet.Refused || !strings.Contains(err.Error(), "not sent") {
		t.Errorf("got %v, want a refused error", err)
	}
}
