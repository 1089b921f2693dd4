// SPDX-License-Identifier: MIT

package signer

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// newKey makes a key.
func newKey(t *testing.T, name string) trust.SecretKey {
	t.Helper()
	k, err := trust.Generate(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func envelope() trust.Envelope {
	return trust.Envelope{PayloadType: fleet.TypeGrant, Payload: []byte(`{"a":1}`)}
}

// An agent of the SSH library, over a socket, holds two ed25519 keys and one of
// another kind. It signs DSSE's bytes themselves.
func TestAgent_SignsTheBytesThemselves(t *testing.T) {
	ring := agent.NewKeyring()
	private := map[string]ed25519.PrivateKey{}
	for _, name := range []string{"alice@example.org", "bob@example.org"} {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := ring.Add(agent.AddedKey{PrivateKey: &k, Comment: name}); err != nil {
			t.Fatal(err)
		}
		private[name] = k
	}
	socket := serveAgent(t, func(c net.Conn) { _ = agent.ServeAgent(ring, c) })
	alice := private["alice@example.org"].Public().(ed25519.PublicKey)
	wrapped, err := ssh.NewPublicKey(alice)
	if err != nil {
		t.Fatal(err)
	}
	keys := []ed25519.PublicKey{alice}
	for _, word := range []string{"alice@example.org", trust.KeyID(alice), ssh.FingerprintSHA256(wrapped)} {
		var s Signer
		if s, err = Agent(t.Context(), socket, word); err != nil {
			t.Fatalf("%s: %v", word, err)
		}
		var e trust.Envelope
		if e, err = Sign(t.Context(), envelope(), keys, s); err != nil {
			t.Fatalf("%s: %v", word, err)
		}
		if err = e.Verify(keys, 1); err != nil {
			t.Errorf("%s: %v", word, err)
		}
	}
	if _, err = Agent(t.Context(), socket, "carol"); fleet.ErrorCode(err) != fleet.Invalid || !strings.Contains(fleet.ErrorHint(err), "bob@example.org") {
		t.Errorf("a key that it does not hold: %v (%s)", err, fleet.ErrorHint(err))
	}
	if _, err = Agent(t.Context(), "", "alice"); fleet.ErrorCode(err) != fleet.Invalid {
		t.Errorf("no agent: %v", err)
	}
	if _, err = Agent(t.Context(), filepath.Join(t.TempDir(), "none"), "alice"); fleet.ErrorCode(err) != fleet.Unavailable {
		t.Errorf("no socket: %v", err)
	}
	bob, err := Agent(t.Context(), socket, "bob@example.org")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = Sign(t.Context(), envelope(), keys, bob); fleet.ErrorCode(err) != fleet.Refused {
		t.Errorf("a key without the role: %v", err)
	}
	parsed, err := ParseSSHKey(string(ssh.MarshalAuthorizedKey(wrapped)))
	if err != nil || !parsed.Key.Equal(alice) {
		t.Errorf("ParseSSHKey: %v, %v", parsed, err)
	}
}

// An agent that never answers does not outlive the caller's context.
func TestAgent_EndsWithItsContext(t *testing.T) {
	asked := make(chan struct{})
	socket := serveAgent(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1))
		close(asked)
		_, _ = c.Read(make([]byte, 1<<20)) // until the client closes
		_, _ = c.Read(make([]byte, 1))
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("Ctrl-C")
	go func() { <-asked; cancel(gone) }()
	if _, err := Agent(ctx, socket, "alice"); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

func serveAgent(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// hookOf is a command that runs a script with the bytes to sign on its input.
func hookOf(t *testing.T, script string) hook {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sign")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Command(file + " --some-option")
	if err != nil {
		t.Fatal(err)
	}
	h := s.(hook)
	h.limit = 20 * time.Second
	return h
}

// A command that lies is found out before its signature is used: one that signs
// other bytes, with another key, that writes garbage, that fails, that hangs.
func TestCommand_IsVerifiedBeforeUse(t *testing.T) {
	alice, mallory := newKey(t, "alice"), newKey(t, "mallory")
	message := trust.PAE(envelope().PayloadType, envelope().Payload)
	text := func(k trust.SecretKey, m []byte) string {
		sig, err := k.Sign(m)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(sig)
	}
	good := text(alice, message)
	keys := []ed25519.PublicKey{alice.Public()}
	for name, tc := range map[string]struct {
		script string
		limit  time.Duration
		want   string // "": it signs
	}{
		"base64":        {"cat >/dev/null; echo " + good, 0, ""},
		"raw":           {"cat >/dev/null; echo " + good + " | base64 -d", 0, ""},
		"reads nothing": {"echo " + good, 0, ""},
		"other bytes":   {"echo " + text(alice, []byte("other")), 0, "not a signature of this document"},
		"other key":     {"echo " + text(mallory, message), 0, "not a signature of this document"},
		"garbage":       {"echo hello", 0, "not a signature"},
		"much garbage":  {"yes | head -c 1000000", 0, "not a signature"},
		"nothing":       {"cat >/dev/null", 0, "0 bytes"},
		"fails":         {"echo the card is locked >&2; exit 3", 0, "the card is locked"},
		"hangs":         {"exec sleep 1000", 200 * time.Millisecond, "200ms"},
	} {
		t.Run(name, func(t *testing.T) {
			h := hookOf(t, tc.script)
			if tc.limit > 0 {
				h.limit = tc.limit
			}
			e, err := Sign(t.Context(), envelope(), keys, h)
			switch {
			case tc.want == "" && err != nil:
				t.Fatal(err)
			case tc.want == "":
				if err = e.Verify(keys, 1); err != nil {
					t.Error(err)
				}
			case err == nil || !strings.Contains(err.Error(), tc.want):
				t.Errorf("got %v, want %q", err, tc.want)
			case len(e.Signatures) != 0:
				t.Error("a signature was added")
			}
		})
	}
	if _, err := Command("  "); fleet.ErrorCode(err) != fleet.Invalid {
		t.Errorf("no command: %v", err)
	}
}

// Two signers with one key are one signature.
func TestSign_AddsEachKeyOnce(t *testing.T) {
	alice, bob := newKey(t, "alice"), newKey(t, "bob")
	keys := []ed25519.PublicKey{alice.Public(), bob.Public()}
	message := trust.PAE(envelope().PayloadType, envelope().Payload)
	sig, _ := alice.Sign(message)
	again := hookOf(t, "echo "+base64.StdEncoding.EncodeToString(sig))
	e, err := Sign(t.Context(), envelope(), keys, File("a.sec", alice), File("copy.sec", alice), again)
	if err != nil || len(e.Signatures) != 1 {
		t.Fatalf("%d signatures, %v", len(e.Signatures), err)
	}
	if e, err = Sign(t.Context(), e, keys, File("b.sec", bob)); err != nil || e.Verify(keys, 2) != nil {
		t.Errorf("two people: %v, %v", err, e.Verify(keys, 2))
	}
}
