// SPDX-License-Identifier: AGPL-3.0-only

// Package once has a call carried out once, however often it comes: when its
// caller names it by an Idempotency-Key, the answer is kept in the transaction
// of the effect, and given again.
//
// It never keeps what it could read by itself: an answer may hold a secret, so
// it is sealed with the caller's own secret and with the call.
package once

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/store"
	"github.com/arcanesys/nixfleet/fleet"
)

// Kept is how long an answer is kept.
const Kept = 24 * time.Hour

// maxName bounds the name of a call, in bytes.
const maxName = 255

// Call is a call that may come again.
type Call struct {
	Caller string // the id of the caller's API key, or what stands for it
	Secret string // that the caller came with; "" if it is part of what is asked
	Name   string // the Idempotency-Key
	// Asked returns the hash of method, path and body. It is called after the
	// body was read.
	Asked func() fleet.Digest
	Now   int64 // Unix milliseconds
}

// Validate checks the name. The error's code is Invalid.
func (c Call) Validate() error {
	if len(c.Name) > maxName {
		return fleet.Errorf(fleet.Invalid, "Idempotency-Key has %d bytes; at most %d are allowed", len(c.Name), maxName)
	}
	for _, b := range []byte(c.Name) {
		if b <= ' ' || b > '~' {
			return fleet.Errorf(fleet.Invalid, "Idempotency-Key has a character that is not printable ASCII").WithHint("send a random name, such as a UUID")
		}
	}
	return nil
}

type callKey struct{}

// With returns a context for carrying out a call.
func With(ctx context.Context, c Call) context.Context { return context.WithValue(ctx, callKey{}, c) }

// Answered decodes into out, a pointer, what the call of ctx was answered before, and
// reports whether it was. The error's code is KeyReused if another call had its
// name.
func Answered(ctx context.Context, r store.Reader, out any) (bool, error) {
	c, ok := ctx.Value(callKey{}).(Call)
	if !ok {
		return false, nil
	}
	return c.answered(ctx, r, out)
}

// Do carries out what ctx's call asks for, which sets out, a pointer, and
// keeps that as the answer; both or neither are committed. A call that was carried out before is
// not again: out is what it was answered. A call without a name is carried out
// each time.
func Do(ctx context.Context, tx *store.Tx, out any, do func() error) error {
	c, ok := ctx.Value(callKey{}).(Call)
	if !ok {
		return do()
	}
	if done, err := c.answered(ctx, tx.Reader, out); done || err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	sealed, err := c.seal(out)
	if err != nil {
		return err
	}
	return tx.PutAnswer(ctx, store.Answer{Caller: c.Caller, Name: c.name(), Call: c.call(), At: c.Now, Sealed: sealed})
}

func (c Call) name() fleet.Digest { return fleet.SHA256([]byte(c.Name)) }

// call is a hash of the hash that is part of the seal.
func (c Call) call() fleet.Digest { return fleet.SHA256([]byte(c.Asked())) }

func (c Call) answered(ctx context.Context, r store.Reader, out any) (bool, error) {
	a, ok, err := r.Answer(ctx, c.Caller, c.name())
	if err != nil || !ok || a.At <= c.Now-Kept.Milliseconds() {
		return false, err
	}
	reused := fleet.Errorf(fleet.KeyReused, "this Idempotency-Key named another call, at %s", time.UnixMilli(a.At).UTC().Format(time.RFC3339)).
		WithHint("give each call a name of its own; only a call that is repeated as it was has the same")
	if a.Call != c.call() {
		return false, reused
	}
	text, err := c.open(a.Sealed)
	if err != nil {
		return false, reused // by another secret of the same API key
	}
	reflect.ValueOf(out).Elem().SetZero() // of what it was set to in the hope of being first
	if err := json.Unmarshal(text, out); err != nil {
		return false, fmt.Errorf("decode answer: %w", err)
	}
	return true, nil
}

// cipher is made for one answer: its key is never used for another.
func (c Call) cipher() (cipher.AEAD, error) {
	secret, err := json.Marshal([]string{c.Secret, c.Name, string(c.Asked())})
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "nixfleet answer", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (c Call) seal(out any) ([]byte, error) {
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	if err = json.NewEncoder(w).Encode(out); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	if err = w.Close(); err != nil {
		return nil, err
	}
	aead, err := c.cipher()
	if err != nil {
		return nil, fmt.Errorf("seal answer: %w", err)
	}
	return aead.Seal(nil, nil, packed.Bytes(), nil), nil
}

func (c Call) open(sealed []byte) ([]byte, error) {
	aead, err := c.cipher()
	if err != nil {
		return nil, err
	}
	packed, err := aead.Open(nil, nil, sealed, nil)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(flate.NewReader(bytes.NewReader(packed)))
}
