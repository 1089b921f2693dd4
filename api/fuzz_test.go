// SPDX-License-Identifier: MIT

package api

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/arcanesys/nixfleet/fleet"
)

// FuzzParseKey reads what a user gives as API key. What is taken can be a header
// and is written again as it was; a key with a host goes to that host only.
func FuzzParseKey(f *testing.F) {
	hash := strings.Repeat("ab", 32)
	for _, s := range []string{
		"open sesame", "nfk_1_s", "nfk_1_s_fleet.example.org", "nfk_1_s_fleet.example.org:8443_" + hash, "nfk_1_s_" + hash, "nfk_1_s_a_b_" + hash,
		"nfk_1_s_user@evil", "nfk_1_s_a/b", "nfk_1_s\n_host", "nfk_1_s\r\nX-Evil: 1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseKey(text)
		if err != nil {
			if fleet.ErrorCode(err) != fleet.Invalid || k != (KeyParts{}) {
				t.Fatalf("%q: %v, %+v", text, err, k)
			}
			return
		}
		if strings.ContainsFunc(k.String(), unicode.IsControl) {
			t.Fatalf("%q has control characters and was taken", text)
		}
		if k.String() != strings.TrimSpace(text) {
			t.Fatalf("%q became %q", text, k)
		}
		if back, err := ParseKey(k.String()); err != nil || back != k {
			t.Fatalf("%+v became %+v, %v", k, back, err)
		}
		if k.Host != "" && k.Fits("https://other.example.org", nil) == nil && k.Host != "other.example.org" {
			t.Fatalf("%+v fits another host", k)
		}
	})
}

// FuzzParseToken reads an enrolment token, as the file on a machine has it. What
// is taken is written again with the same meaning.
func FuzzParseToken(f *testing.F) {
	t := TokenParts{Machine: "web-01", Secret: strings.Repeat("s", 32), CAHash: strings.Repeat("ab", 32)}
	f.Add(t.String())
	f.Add(t.String() + ".2.later")
	f.Add(t.String() + ".1.e30")
	f.Add(t.String() + ".1.")
	t.Floor = &TokenFloor{Line: "main", Release: []byte("{}"), Expires: 1}
	f.Add(t.String() + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseToken(text)
		if err != nil {
			if fleet.ErrorCode(err) != fleet.Invalid || got != (TokenParts{}) {
				t.Fatalf("%q: %v, %+v", text, err, got)
			}
			return
		}
		written := got.String()
		back, err := ParseToken(written)
		if err != nil || back.String() != written || back.Bare() != got.Bare() {
			t.Fatalf("%q became %q, %v", text, written, err)
		}
		if !got.Machine.Valid() || strings.ContainsFunc(written, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("%q was taken", text)
		}
		if !strings.HasPrefix(strings.TrimSpace(text), got.Bare()) {
			t.Fatalf("the secret of %q is %q", text, got.Bare())
		}
		if got.Floor != nil && (!got.Floor.Line.Valid() || got.Floor.Expires <= 0) {
			t.Fatalf("floor %+v was taken", got.Floor)
		}
	})
}

// wire answers every request with one reply.
type wire struct {
	status int
	retry  string
	body   []byte
}

func (w wire) RoundTrip(*http.Request) (*http.Response, error) {
	h := http.Header{"Content-Type": {"application/json"}}
	if w.retry != "" {
		h.Set("Retry-After", w.retry)
	}
	return &http.Response{StatusCode: w.status, Status: http.StatusText(w.status), Header: h, Body: io.NopCloser(bytes.NewReader(w.body))}, nil
}

func (w wire) caller() *caller {
	return &caller{base: "https://cp.example.org", http: &http.Client{Transport: w}}
}

// FuzzReply gives an agent and a CLI what a control plane that was taken over may
// answer: it is read, or is an error with a code, and a wait that it asks for is
// bounded.
func FuzzReply(f *testing.F) {
	for _, s := range []struct {
		status      int
		retry, body string
	}{
		{200, "", `{"etag":"a","apply":{"digest":"sha256:","rollout":"r1","attempt":1}}`}, {200, "", `{"accepted":["1"],"rejected":null,"reasons":{"1":"no"}}`},
		{429, "7", `{"status":200,"detail":"\u001b[2J","code":"unavailable","hint":"h"}`}, {503, "99999999999999999999", ``}, {418, "Sun, 06 Nov 1994 08:49:37 GMT", `[]`},
		{200, "", `{"apply":{"attempt":1e99}}`}, {200, "", strings.Repeat("[", 20000)}, {403, "-1", `{"code":"mood","detail":"x"}`},
		{200, "", `{"items":[{"id":"web-01","health":7},8,null],"next":"n"}`},
	} {
		f.Add(s.status, s.retry, []byte(s.body))
	}
	f.Fuzz(func(t *testing.T, status int, retry string, body []byte) {
		if status < 200 || status > 599 || status/100 == 3 || strings.ContainsFunc(retry, unicode.IsControl) {
			return // net/http lets none of these through
		}
		agent := &AgentClient{c: wire{status, retry, body}.caller()}
		orders, err := agent.CheckIn(t.Context(), CheckIn{Machine: "web-01"})
		if err == nil && (status/100 != 2 || !json.Valid(body)) {
			t.Fatalf("status %d, %q: taken as %+v", status, body, orders)
		}
		if err == nil && len(body) > maxOrders {
			t.Fatalf("orders of %d bytes were taken", len(body))
		}
		if err != nil {
			if !fleet.ErrorCode(err).Valid() || len(err.Error()) > maxProblem+500 {
				t.Fatalf("status %d, %q: error with code %q and %d bytes", status, body, fleet.ErrorCode(err), len(err.Error()))
			}
			if after, asked := RetryAfter(err); asked && (after < 0 || after > maxRetryAfter) {
				t.Fatalf("Retry-After %q has the agent wait for %s", retry, after)
			}
			if status/100 == 5 && fleet.ErrorCode(err) == "" {
				t.Fatal("no code")
			}
		}
		if status/100 == 2 { // any other may be asked for again, after a while
			page, err := (&Client{c: agent.c, timeout: time.Minute}).Machines(t.Context(), fleet.MachineFilter{}, fleet.PageRequest{})
			if err == nil && !json.Valid(body) {
				t.Fatalf("%q: taken as %+v", body, page)
			}
		}
		if b, err := agent.Release(t.Context(), fleet.SHA256(nil)); err == nil && (status/100 != 2 || !bytes.Equal(b, body) || len(b) > maxBundle) {
			t.Fatalf("status %d: %d bytes came through as %d", status, len(body), len(b))
		}
	})
}

// FuzzEvents feeds the reader of an event stream: it gives events in order of the
// stream, its place never falls, and it keeps no more than an event.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("id: 3\ndata: {\"id\":3,\"kind\":\"a\"}\n\nid: 2\ndata: {\"id\":2}\n\n: heartbeat\n\n"), int64(0))
	f.Add([]byte("data: {\"id\":\ndata: 7}\n\n"), int64(9))
	f.Add([]byte("id: 9223372036854775807\n\ndata: {}\n\n"), int64(1))
	f.Fuzz(func(t *testing.T, body []byte, after int64) {
		if after < 0 {
			return
		}
		c := &Client{c: wire{status: http.StatusOK, body: body}.caller()}
		place, events := after, 0
		began := time.Now()
		more, err := c.stream(t.Context(), &place, fleet.EventFilter{}, func(e Event, err error) bool {
			events++
			if place < e.ID || err != nil {
				t.Fatalf("place %d after event %d, %v", place, e.ID, err)
			}
			return events < 3
		})
		if place < after {
			t.Fatalf("the place went from %d to %d", after, place)
		}
		if more == (events == 3) && err == nil {
			t.Fatalf("%d events, more: %t", events, more)
		}
		if err != nil && !fleet.ErrorCode(err).Valid() {
			t.Fatalf("%v has no code", err)
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%d bytes took %s", len(body), time.Since(began))
		}
	})
}

// FuzzCertificates reads the PEM file that --ca names, and compares a key with it.
func FuzzCertificates(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		total := 0
		for _, der := range certificates(text) {
			total += len(der)
		}
		if total > len(text) {
			t.Fatalf("%d bytes of PEM hold %d of certificates", len(text), total)
		}
	})
}
