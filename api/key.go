// SPDX-License-Identifier: MIT

package api

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/arcanesys/nixfleet/fleet"
)

// KeyParts is what the text of an API key says:
// `nfk_<id>_<secret>_<host>_<CA hash>`. The last two bind the key to a control
// plane. They are for the client; only `nfk_<id>_<secret>` is sent.
type KeyParts struct {
	Secret string // nfk_<id>_<secret>
	// Host is the control plane's host, with its port unless that is 443. Empty:
	// an older key, which names none.
	Host string
	// CAHash is the sha256 of the root certificate, DER, in hex, if the control
	// plane has a CA of its own. Empty: the system's CAs verify it.
	CAHash string
}

// ParseKey splits the text of an API key. Text without a host, or of another
// form, is an older key. The error's code is Invalid; it does not quote the key.
func ParseKey(text string) (KeyParts, error) {
	text = strings.TrimSpace(text)
	if strings.ContainsFunc(text, unicode.IsControl) { // a header cannot carry it
		return KeyParts{}, damagedKey()
	}
	rest, ok := strings.CutPrefix(text, fleet.KeyPrefix)
	id, rest, hasSecret := strings.Cut(rest, "_")
	secret, host, bound := strings.Cut(rest, "_")
	if !ok || !hasSecret || !bound {
		return KeyParts{Secret: text}, nil
	}
	k := KeyParts{Secret: fleet.KeyPrefix + id + "_" + secret, Host: host}
	if i := strings.LastIndexByte(host, '_'); i >= 0 && fleet.Digest("sha256:"+host[i+1:]).Valid() {
		k.Host, k.CAHash = host[:i], host[i+1:]
	}
	if u, err := url.Parse("https://" + k.Host); err != nil || k.Host == "" || u.Host != k.Host {
		return KeyParts{}, damagedKey()
	}
	return k, nil
}

func damagedKey() error {
	return fleet.Errorf(fleet.Invalid, "this API key is damaged").WithHint("copy it again, whole; it begins with %s", fleet.KeyPrefix)
}

// String is the inverse of ParseKey. It is a secret.
func (k KeyParts) String() string {
	switch {
	case k.Host == "":
		return k.Secret
	case k.CAHash == "":
		return k.Secret + "_" + k.Host
	}
	return k.Secret + "_" + k.Host + "_" + k.CAHash
}

// Fits returns an error of code Refused if the key may not be sent to the
// control plane at base that is verified with the CAs in caPEM, or with the
// system's if there are none. An older key fits each.
func (k KeyParts) Fits(base string, caPEM []byte) error {
	switch {
	case k.Host == "":
		return nil
	case k.Host != keyHost(base):
		return fleet.Errorf(fleet.Refused, "the key is for the control plane at %s", k.Host).
			WithHint("give --server https://%s, or a key of this control plane", k.Host)
	case k.CAHash == "" && len(caPEM) > 0:
		return k.otherCA("the CAs of the system verify the key's control plane, and another CA is given")
	case k.CAHash != "" && len(caPEM) > 0 && !slices.ContainsFunc(certificates(caPEM), func(der []byte) bool { return CAHash(der) == k.CAHash }):
		return k.otherCA("the key's control plane has the CA sha256:%s, and another CA is given", k.CAHash)
	}
	return nil
}

func (k KeyParts) otherCA(format string, args ...any) error {
	hint := "give --ca with that CA; if the control plane has a new CA, take a new key from it"
	if k.CAHash == "" {
		hint = "give --ca '' for the system's CAs; if the control plane has a CA of its own now, take a new key from it"
	}
	return fleet.Errorf(fleet.Refused, format, args...).WithHint("%s", hint)
}

// verified returns an error unless the connection is to the key's control plane.
func (k KeyParts) verified(cs tls.ConnectionState) error {
	if k.CAHash == "" || slices.ContainsFunc(cs.VerifiedChains, func(chain []*x509.Certificate) bool {
		return CAHash(chain[len(chain)-1].Raw) == k.CAHash
	}) {
		return nil
	}
	return k.otherCA("the API key was not sent: its control plane has the CA sha256:%s, and another CA verified %s", k.CAHash, cs.ServerName)
}

// keyHost is the host of a control plane's address, as keys carry it; "" if it
// is not an address.
func keyHost(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(strings.ToLower(u.Host), ":443")
}

// certificates returns the certificates of PEM text, DER.
func certificates(text []byte) [][]byte {
	var out [][]byte
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return out
		}
		if b.Type == "CERTIFICATE" {
			out = append(out, b.Bytes)
		}
	}
}

// rootOf is the hash of the root that verified a connection: that of the longest
// chain, since a CA file may hold an intermediate beside its root.
func rootOf(cs tls.ConnectionState) string {
	var longest []*x509.Certificate
	for _, chain := range cs.VerifiedChains {
		if len(chain) > len(longest) {
			longest = chain
		}
	}
	if len(longest) == 0 {
		return ""
	}
	return CAHash(longest[len(longest)-1].Raw)
}
