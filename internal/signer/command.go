// SPDX-License-Identifier: MIT

package signer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// hook is a program that signs: the bytes on its standard input, the signature
// on its standard output, as 64 bytes or as their base64.
type hook struct {
	words []string
	limit time.Duration
}

// Command is the signer of a command line, which is split at spaces and run
// without a shell. The error's code is Invalid.
func Command(line string) (Signer, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil, fleet.Errorf(fleet.Invalid, "the command that signs is empty")
	}
	return hook{words, timeout}, nil
}

func (h hook) Name() string { return "the command " + h.words[0] }

func (h hook) Public() ed25519.PublicKey { return nil }

func (h hook) Sign(ctx context.Context, message []byte) ([]byte, error) {
	res, err := proc.Run(ctx, proc.Cmd{Path: h.words[0], Args: h.words[1:], Stdin: bytes.NewReader(message), Timeout: h.limit, MaxOutput: 4096})
	if err != nil {
		return nil, err
	}
	if len(res.Stdout) == ed25519.SignatureSize {
		return res.Stdout, nil
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(res.Stdout)))
	if err != nil || len(sig) != ed25519.SignatureSize {
		return nil, fleet.Errorf(fleet.Refused, "its output is not a signature: %d bytes", len(res.Stdout)).
			WithHint("it has to write 64 bytes, or their base64, and nothing else")
	}
	return sig, nil
}
