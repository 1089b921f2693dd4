// SPDX-License-Identifier: AGPL-3.0-only

package store

import (
	"context"
	"fmt"

	"github.com/arcanesys/nixfleet/fleet"
)

// Certificate is a client certificate that the control plane issued. It counts
// only while Key is that of its machine's row.
type Certificate struct {
	Serial    string // lower-case hex
	Machine   fleet.MachineID
	Key       fleet.Digest // of the public key; "" from before it was kept
	IssuedAt  int64        // Unix milliseconds, as the others
	NotAfter  int64
	RevokedAt int64
	DER       []byte // nil once no repeat is answered with it
}

const certificateColumns = `serial, machine_id, key_hash, issued_at, not_after, revoked_at, answer`

func scanCertificate(r row) (c Certificate, err error) {
	var answer string
	if err := r.Scan(&c.Serial, &c.Machine, &c.Key, &c.IssuedAt, &c.NotAfter, &c.RevokedAt, &answer); err != nil || answer == "" {
		return c, err
	}
	return c, parse(jsonColumn{answer, &c.DER})
}

// Certificate returns an issued certificate by its serial number; false if
// there is none.
func (r Reader) Certificate(ctx context.Context, serial string) (Certificate, bool, error) {
	c, ok, err := first(ctx, r.q, scanCertificate, `SELECT `+certificateColumns+` FROM certificate WHERE serial = $1`, serial)
	if err != nil {
		return c, false, fmt.Errorf("read certificate %s: %w", serial, err)
	}
	return c, ok, nil
}

// LastCertificate returns the newest certificate of a machine's key that was
// issued after one time and not after another, with its DER; false if there is none.
func (r Reader) LastCertificate(ctx context.Context, machine fleet.MachineID, key fleet.Digest, after, until int64) (Certificate, bool, error) {
	c, ok, err := first(ctx, r.q, scanCertificate, `SELECT `+certificateColumns+` FROM certificate
		WHERE machine_id = $1 AND key_hash = $2 AND issued_at > $3 AND issued_at <= $4 AND revoked_at = 0 AND answer <> ''
		ORDER BY issued_at DESC, serial LIMIT 1`, string(machine), string(key), after, until)
	if err != nil {
		return c, false, fmt.Errorf("read last certificate of %s: %w", machine, err)
	}
	return c, ok, nil
}

// AddCertificate keeps a certificate that was issued.
func (t *Tx) AddCertificate(ctx context.Context, c Certificate) error {
	answer := ""
	if len(c.DER) > 0 {
		var err error
		if answer, err = text(c.DER); err != nil {
			return err
		}
	}
	if _, err := t.exec(ctx, `INSERT INTO certificate (serial, machine_id, key_hash, issued_at, not_after, answer) VALUES ($1, $2, $3, $4, $5, $6)`,
		c.Serial, string(c.Machine), string(c.Key), c.IssuedAt, c.NotAfter, answer); err != nil {
		return fmt.Errorf("write certificate %s: %w", c.Serial, err)
	}
	return nil
}

// CertificateEnds returns when each machine's newest certificate ends, in Unix
// milliseconds. Machines without one are left out.
func (r Reader) CertificateEnds(ctx context.Context) (map[fleet.MachineID]int64, error) {
	type end struct {
		machine fleet.MachineID
		at      int64
	}
	rows, err := list(ctx, r.q, func(r row) (e end, err error) { return e, r.Scan(&e.machine, &e.at) },
		`SELECT machine_id, MAX(not_after) FROM certificate WHERE revoked_at = 0 GROUP BY machine_id`)
	if err != nil {
		return nil, fmt.Errorf("list ends of certificates: %w", err)
	}
	ends := make(map[fleet.MachineID]int64, len(rows))
	for _, e := range rows {
		ends[e.machine] = e.at
	}
	return ends, nil
}

// DeleteCertificatesBefore forgets certificates that ended before a time, but
// each machine's newest, and the answers that were given before another. Nothing
// counts again by that: what has no row, or no answer, is worth less.
func (t *Tx) DeleteCertificatesBefore(ctx context.Context, ended, answered int64) error {
	if _, err := t.exec(ctx, `DELETE FROM certificate WHERE not_after < $1 AND (revoked_at > 0 OR EXISTS (SELECT 1 FROM certificate AS c
		WHERE c.machine_id = certificate.machine_id AND c.revoked_at = 0 AND c.not_after > certificate.not_after))`, ended); err != nil {
		return fmt.Errorf("delete old certificates: %w", err)
	}
	if _, err := t.exec(ctx, `UPDATE certificate SET answer = '' WHERE answer <> '' AND issued_at < $1`, answered); err != nil {
		return fmt.Errorf("delete old answers: %w", err)
	}
	return nil
}

// EndIdentity ends a machine's key and all certificates that are known of it, of
// whatever CA, and returns the serial numbers of another CA's.
func (t *Tx) EndIdentity(ctx context.Context, machine fleet.MachineID, keys []fleet.Digest, at int64) ([]string, error) {
	for _, key := range keys {
		if _, err := t.exec(ctx, `INSERT INTO ended_key (key_hash, machine_id, ended_at) VALUES ($1, $2, $3) ON CONFLICT (key_hash) DO NOTHING`,
			string(key), string(machine), at); err != nil {
			return nil, fmt.Errorf("end key of %s: %w", machine, err)
		}
	}
	if _, err := t.exec(ctx, `UPDATE certificate SET revoked_at = $1 WHERE machine_id = $2 AND revoked_at = 0`, at, string(machine)); err != nil {
		return nil, fmt.Errorf("revoke certificates of %s: %w", machine, err)
	}
	serials, err := list(ctx, t.q, column[string], `UPDATE shown_certificate SET ended_at = $1
		WHERE machine_id = $2 AND ended_at = 0 RETURNING serial`, at, string(machine))
	if err != nil {
		return nil, fmt.Errorf("end certificates of %s: %w", machine, err)
	}
	return serials, nil
}

// KeyEnded reports whether a key was some machine's and ended.
func (r Reader) KeyEnded(ctx context.Context, key fleet.Digest) (bool, error) {
	_, ok, err := first(ctx, r.q, column[string], `SELECT key_hash FROM ended_key WHERE key_hash = $1`, string(key))
	if err != nil {
		return false, fmt.Errorf("read ended keys: %w", err)
	}
	return ok, nil
}

// Shown is a certificate of another CA that a machine has shown.
type Shown struct {
	Serial  string
	Machine fleet.MachineID
}

// EndedCertificates returns the certificates of another CA that have ended.
func (r Reader) EndedCertificates(ctx context.Context) ([]Shown, error) {
	ended, err := list(ctx, r.q, func(r row) (s Shown, err error) { return s, r.Scan(&s.Serial, &s.Machine) },
		`SELECT serial, machine_id FROM shown_certificate WHERE ended_at > 0`)
	if err != nil {
		return nil, fmt.Errorf("list ended certificates: %w", err)
	}
	return ended, nil
}

// IsShown reports whether a certificate of another CA is kept.
func (r Reader) IsShown(ctx context.Context, s Shown) (bool, error) {
	_, ok, err := first(ctx, r.q, column[string], `SELECT serial FROM shown_certificate WHERE serial = $1 AND machine_id = $2`, s.Serial, string(s.Machine))
	if err != nil {
		return false, fmt.Errorf("read certificates of %s: %w", s.Machine, err)
	}
	return ok, nil
}

// AddShown keeps a certificate of another CA. One that is kept stays as it is.
func (t *Tx) AddShown(ctx context.Context, s Shown, at int64) error {
	if _, err := t.exec(ctx, `INSERT INTO shown_certificate (serial, machine_id, shown_at) VALUES ($1, $2, $3)
		ON CONFLICT (serial, machine_id) DO NOTHING`, s.Serial, string(s.Machine), at); err != nil {
		return fmt.Errorf("write certificate %s of %s: %w", s.Serial, s.Machine, err)
	}
	return nil
}
