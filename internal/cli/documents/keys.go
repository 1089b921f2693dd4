// SPDX-License-Identifier: MIT

package documents

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/signer"
	"github.com/arcanesys/nixfleet/internal/trust"
)

// Keys are the signers that the command line names.
type Keys struct {
	Files    []string
	Agents   []string
	Commands []string
}

// Register adds the flags that name signers.
func (k *Keys) Register(f *pflag.FlagSet) {
	f.StringArrayVar(&k.Files, "sign-key", nil, "secret key file that signs; repeat it for more signatures (NIXFLEET_SIGN_KEY)")
	f.StringArrayVar(&k.Agents, "sign-agent", nil, "ed25519 key in the ssh-agent that signs: its comment, SHA256:fingerprint or key id")
	f.StringArrayVar(&k.Commands, "sign-cmd", nil, "command that signs: the bytes on its standard input, the signature on its standard output, 64 bytes or base64. It is split at spaces")
}

// given reports whether the command line names a signer.
func (k Keys) given() bool { return len(k.Files)+len(k.Agents)+len(k.Commands) > 0 }

// Signers opens the signers. Without one on the command line it is the key file
// that NIXFLEET_SIGN_KEY names, or none.
func (h Host) Signers(ctx context.Context, k Keys) ([]signer.Signer, error) {
	files := k.Files
	if env := h.Env("NIXFLEET_SIGN_KEY"); !k.given() && env != "" {
		files = []string{env}
	}
	var out []signer.Signer
	for _, file := range files {
		b, err := h.Read(file, 4096)
		if err != nil {
			return nil, err
		}
		key, err := trust.ParseSecretKey(string(b))
		if err != nil {
			return nil, fleet.Errorf(fleet.Invalid, "%s: %w", file, err).WithHint("%s", fleet.ErrorHint(err))
		}
		out = append(out, signer.File(file, key))
	}
	for _, word := range k.Agents {
		s, err := signer.Agent(ctx, h.Env("SSH_AUTH_SOCK"), word)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	for _, line := range k.Commands {
		s, err := signer.Command(line)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// publicKey reads a public key, name:base64 or a line of ssh-keygen, or a file
// with one.
func (h Host) publicKey(text string) (trust.PublicKey, error) {
	where := ""
	if _, err := os.Stat(text); err == nil {
		b, err := h.Read(text, 4096)
		if err != nil {
			return trust.PublicKey{}, err
		}
		where, text = text+": ", string(b)
	}
	parse := trust.ParsePublicKey
	if strings.HasPrefix(text, "ssh-") || strings.HasPrefix(text, "ecdsa-") {
		parse = signer.ParseSSHKey
	}
	k, err := parse(text)
	if err != nil {
		return k, fleet.Errorf(fleet.Invalid, "%s%w", where, err).WithHint("%s", fleet.ErrorHint(err))
	}
	return k, nil
}

// names shows keys by the names that root documents give them.
func names(ids []string, roots ...fleet.Root) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = id
		for _, r := range roots {
			for listed, k := range r.Keys {
				if (listed == id || keyIDOf(k) == id) && k.Name != "" {
					words[i] = k.Name + " (" + id + ")"
				}
			}
		}
	}
	if len(words) == 0 {
		return "nobody"
	}
	return strings.Join(words, ", ")
}

func keyIDOf(k fleet.TrustKey) string {
	p, err := trust.ParsePublicKey("key:" + k.Public)
	if err != nil {
		return ""
	}
	return trust.KeyID(p.Key)
}
