// SPDX-License-Identifier: MIT

package api

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
)

// TokenPrefix begins every enrolment token, so that secret scanners know one.
const TokenPrefix = "nft_"

// TokenParts is what an enrolment token says: `nft_<name>_<secret>_<CA hash>`.
type TokenParts struct {
	Machine fleet.MachineID
	Secret  string // 16 to 128 letters, digits or '-'
	CAHash  string // sha256 of the server CA's certificate, DER, in hex
}

// ParseToken splits an enrolment token. The error's code is Invalid; it does
// not quote the token.
func ParseToken(s string) (TokenParts, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), TokenPrefix)
	parts := strings.Split(rest, "_")
	if !ok || len(parts) != 3 {
		return TokenParts{}, fleet.Errorf(fleet.Invalid, "this is not an enrolment token").WithHint("make one with: nixfleet machine token NAME")
	}
	t := TokenParts{Machine: fleet.MachineID(parts[0]), Secret: parts[1], CAHash: parts[2]}
	badSecret := len(t.Secret) < 16 || len(t.Secret) > 128 || strings.ContainsFunc(t.Secret, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
	})
	if !t.Machine.Valid() || badSecret || !fleet.Digest("sha256:"+t.CAHash).Valid() {
		return TokenParts{}, fleet.Errorf(fleet.Invalid, "this enrolment token is damaged").WithHint("copy it again, whole; it begins with %s", TokenPrefix)
	}
	return t, nil
}

// String is the inverse of ParseToken.
func (t TokenParts) String() string {
	return TokenPrefix + string(t.Machine) + "_" + t.Secret + "_" + t.CAHash
}

// CAHash is the hash of a CA's certificate, DER, as tokens carry it.
func CAHash(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// EnrollTLS returns a configuration for the control plane at host, a name or
// an address, that trusts the one CA that the token names and no other: the
// control plane sends the CA's certificate in its handshake.
func (t TokenParts) EnrollTLS(host string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: host,
		// The chain is verified below, against a root that is known by its
		// hash only. The state's ServerName is empty for an address, so that
		// the host is the one given here.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			roots, inter := x509.NewCertPool(), x509.NewCertPool()
			found := false
			for _, c := range cs.PeerCertificates {
				inter.AddCert(c)
				if CAHash(c.Raw) == t.CAHash {
					roots.AddCert(c)
					found = true
				}
			}
			if !found {
				return fleet.Errorf(fleet.Refused, "the control plane has another CA than the enrolment token names").
					WithHint("is this the control plane that made the token?")
			}
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, DNSName: host})
			return err
		},
	}
}
