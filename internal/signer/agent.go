// SPDX-License-Identifier: MIT

package signer

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// inAgent is an ed25519 key that an ssh-agent holds.
type inAgent struct {
	socket  string
	key     *agent.Key
	public  ed25519.PublicKey
	comment string
}

// Agent finds a key in the ssh-agent at socket: by its key id, its SSH
// fingerprint (SHA256:...) or its comment. The error's code is Invalid if there
// is no such key, and Unavailable if the agent does not answer.
func Agent(ctx context.Context, socket, word string) (Signer, error) {
	if socket == "" {
		return nil, fleet.Errorf(fleet.Invalid, "no ssh-agent is running here: SSH_AUTH_SOCK is not set").WithHint("ssh-agent holds keys, and ssh-add adds one")
	}
	var keys []*agent.Key
	if err := ask(ctx, socket, func(c agent.ExtendedAgent) (err error) {
		keys, err = c.List()
		return err
	}); err != nil {
		return nil, err
	}
	var found []Signer
	var names []string
	for _, k := range keys {
		public, ok := ed25519Of(k)
		if !ok {
			continue
		}
		names = append(names, trust.KeyID(public)+" "+k.Comment)
		if slices.Contains([]string{k.Comment, trust.KeyID(public), ssh.FingerprintSHA256(k)}, word) {
			found = append(found, inAgent{socket, k, public, k.Comment})
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fleet.Errorf(fleet.Invalid, "the ssh-agent holds no ed25519 key %q", word).
			WithHint("its ed25519 keys are: %s", fleet.CleanText(strings.Join(append(names, "no more"), ", "), 500))
	}
	return nil, fleet.Errorf(fleet.Invalid, "the ssh-agent holds %d keys %q", len(found), word).WithHint("give the fingerprint, which ssh-add -l shows")
}

// ParseSSHKey reads a line as ssh-keygen writes it to a .pub file. The error's
// code is Invalid.
func ParseSSHKey(line string) (trust.PublicKey, error) {
	k, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return trust.PublicKey{}, fleet.Errorf(fleet.Invalid, "SSH public key: %w", err)
	}
	public, ok := ed25519Of(k)
	if !ok {
		return trust.PublicKey{}, fleet.Errorf(fleet.Invalid, "the SSH key is a %s key, and ed25519 is needed", k.Type()).WithHint("ssh-keygen -t ed25519 makes one")
	}
	return trust.NewPublicKey(comment, public), nil
}

// ed25519Of is the key inside an SSH key. Keys on devices (sk-ssh-ed25519) sign
// other bytes than those given, so they are none.
func ed25519Of(k ssh.PublicKey) (ed25519.PublicKey, bool) {
	if k.Type() != ssh.KeyAlgoED25519 {
		return nil, false
	}
	parsed, err := ssh.ParsePublicKey(k.Marshal())
	if err != nil {
		return nil, false
	}
	c, ok := parsed.(ssh.CryptoPublicKey)
	if !ok {
		return nil, false
	}
	public, ok := c.CryptoPublicKey().(ed25519.PublicKey)
	return public, ok
}

func (s inAgent) Name() string {
	return "the ssh-agent's key " + fleet.CleanText(s.comment, 100)
}

func (s inAgent) Public() ed25519.PublicKey { return s.public }

func (s inAgent) Sign(ctx context.Context, message []byte) (sig []byte, err error) {
	err = ask(ctx, s.socket, func(c agent.ExtendedAgent) (err error) {
		got, err := c.Sign(s.key, message)
		if err != nil {
			return err
		}
		if got.Format != ssh.KeyAlgoED25519 {
			return fleet.Errorf(fleet.Refused, "it signed with %q", got.Format)
		}
		sig = got.Blob
		return nil
	})
	return sig, err
}

// ask connects to the agent and ends the connection with ctx, or when the agent
// has taken too long.
func ask(ctx context.Context, socket string, f func(agent.ExtendedAgent) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return fleet.Errorf(fleet.Unavailable, "reach the ssh-agent: %w", err).WithHint("is SSH_AUTH_SOCK that of a running agent?")
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := f(agent.NewClient(conn)); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		return fleet.Errorf(fleet.Unavailable, "ask the ssh-agent: %w", err)
	}
	return nil
}
