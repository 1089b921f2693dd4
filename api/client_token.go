// SPDX-License-Identifier: MIT

package api

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/arcanesys/nixfleet/fleet"
)

// TokenPrefix begins every enrolment token, so that secret scanners know one.
const TokenPrefix = "nft_"

// floorVersion is the version of a token's part after the secret: base64url of
// the JSON of TokenFloor.
const floorVersion = "1"

// TokenParts is what an enrolment token says, in one line:
//
//	nft_<name>_<secret>_<CA hash>[.<version>.<floor>]
//
// The control plane makes the part before the first dot. The operator's CLI adds
// the floor, which is for the machine alone: it is never sent to the control
// plane, and what a control plane says never becomes a floor.
type TokenParts struct {
	Machine fleet.MachineID
	Secret  string      // 16 to 128 letters, digits or '-'
	CAHash  string      // sha256 of the server CA's certificate, DER, in hex
	Floor   *TokenFloor // nil: none, or of a version that is not known
}

// TokenFloor says where a line stood when the token was made.
type TokenFloor struct {
	Line    fleet.Line `json:"line"`
	Release []byte     `json:"release,omitempty"` // signed header of its newest release; empty: no release yet
	Expires int64      `json:"expires"`           // Unix ms; afterwards it counts for nothing
}

// ParseToken splits an enrolment token. The error's code is Invalid; it does
// not quote the token.
func ParseToken(s string) (TokenParts, error) {
	text, floor, _ := strings.Cut(strings.TrimSpace(s), ".")
	t, err := parseBareToken(text)
	if err != nil {
		return TokenParts{}, err
	}
	if t.Floor, err = parseTokenFloor(floor); err != nil {
		return TokenParts{}, err
	}
	return t, nil
}

func parseTokenFloor(s string) (*TokenFloor, error) {
	version, text, _ := strings.Cut(s, ".")
	if version != floorVersion {
		return nil, nil
	}
	var f TokenFloor
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil || !f.Line.Valid() || f.Expires <= 0 {
		return nil, damagedToken()
	}
	return &f, nil
}

func damagedToken() error {
	return fleet.Errorf(fleet.Invalid, "this enrolment token is damaged").WithHint("copy it again, whole; it begins with %s", TokenPrefix)
}

func parseBareToken(s string) (TokenParts, error) {
	rest, ok := strings.CutPrefix(s, TokenPrefix)
	parts := strings.Split(rest, "_")
	if !ok || len(parts) != 3 {
		return TokenParts{}, fleet.Errorf(fleet.Invalid, "this is not an enrolment token").WithHint("make one with: nixfleet machine token NAME")
	}
	t := TokenParts{Machine: fleet.MachineID(parts[0]), Secret: parts[1], CAHash: parts[2]}
	badSecret := len(t.Secret) < 16 || len(t.Secret) > 128 || strings.ContainsFunc(t.Secret, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
	})
	if !t.Machine.Valid() || badSecret || !fleet.Digest("sha256:"+t.CAHash).Valid() {
		return TokenParts{}, damagedToken()
	}
	return t, nil
}

// String is the inverse of ParseToken.
func (t TokenParts) String() string {
	if t.Floor == nil {
		return t.Bare()
	}
	b, err := json.Marshal(t.Floor)
	if err != nil {
		panic(err) // strings, bytes and a number can be encoded
	}
	return t.Bare() + "." + floorVersion + "." + base64.RawURLEncoding.EncodeToString(b)
}

// Bare is the token without its floor, which the control plane knows.
func (t TokenParts) Bare() string {
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
