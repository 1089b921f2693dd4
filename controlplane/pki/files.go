// SPDX-License-Identifier: AGPL-3.0-only

package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
)

// The files below the control plane's state directory. A key shares a file with
// its certificate, so that neither ever exists without the other.
const (
	serverCAFile = "server-ca.key.pem"
	agentCAFile  = "agent-ca.key.pem"
	serverFile   = "server.key.pem"
	epochFile    = "epoch.key"
	ticketFile   = "tickets.key"
	// CAFile is the public one: what operators and agents verify the control
	// plane with.
	CAFile = "ca.pem"
)

// Keys are the control plane's secrets, except what its database holds.
type Keys struct {
	ServerCA  Authority
	AgentCA   Authority
	EpochKey  []byte // 32 bytes
	TicketKey []byte // 32 bytes

	dir   string
	names []string

	mu     sync.Mutex
	server *tls.Certificate // guarded by mu
	fits   time.Time        // when server was looked at last; guarded by mu
}

// lookEvery is how often the server's certificate is looked at: to verify it costs
// as much as a good part of a handshake.
const lookEvery = time.Minute

// Load reads the keys below dir, and makes those that do not exist yet. A
// crash in the middle leaves whole files or none. The error's code is Invalid
// if a file is damaged or may be read by others.
func Load(dir string, names []string, now time.Time) (*Keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fleet.Errorf(fleet.Unavailable, "make key directory: %w", err)
	}
	k := &Keys{dir: dir, names: names}
	var err error
	if k.ServerCA, err = loadAuthority(filepath.Join(dir, serverCAFile), "nixfleet server CA", now); err != nil {
		return nil, err
	}
	if k.AgentCA, err = loadAuthority(filepath.Join(dir, agentCAFile), "nixfleet agent CA", now); err != nil {
		return nil, err
	}
	if k.EpochKey, err = loadSecret(filepath.Join(dir, epochFile)); err != nil {
		return nil, err
	}
	if k.TicketKey, err = loadSecret(filepath.Join(dir, ticketFile)); err != nil {
		return nil, err
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.ServerCA.Cert.Raw})
	if err := replace(filepath.Join(dir, CAFile), public, 0o644); err != nil {
		return nil, err
	}
	if _, err := k.Server(now); err != nil {
		return nil, err
	}
	return k, nil
}

// Server returns the server certificate with its chain. It is issued anew,
// and kept, when it is near its end or the names have changed.
func (k *Keys) Server(now time.Time) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if since := now.Sub(k.fits); k.server != nil && since >= 0 && since < lookEvery {
		return k.server, nil
	}
	if k.server != nil && k.ServerCA.ServerFits(k.server.Leaf, k.names, now) {
		k.fits = now
		return k.server, nil
	}
	file := filepath.Join(k.dir, serverFile)
	cert, key, err := readPair(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	}
	if cert == nil || !k.ServerCA.ServerFits(cert, k.names, now) {
		if cert, key, err = k.ServerCA.Server(k.names, now); err != nil {
			return nil, err
		}
		b, err := encodePair(cert, key)
		if err != nil {
			return nil, err
		}
		if err := replace(file, b, 0o600); err != nil {
			return nil, err
		}
	}
	k.server, k.fits = &tls.Certificate{Certificate: [][]byte{cert.Raw, k.ServerCA.Cert.Raw}, PrivateKey: key, Leaf: cert}, now
	return k.server, nil
}

// loadAuthority reads a CA, or makes it.
func loadAuthority(file, name string, now time.Time) (Authority, error) {
	cert, key, err := readPair(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return Authority{Cert: cert, Key: key}, err
	}
	a, err := NewAuthority(name, now)
	if err != nil {
		return Authority{}, err
	}
	b, err := encodePair(a.Cert, a.Key)
	if err != nil {
		return Authority{}, err
	}
	if err = create(file, b); err != nil {
		return Authority{}, err
	}
	cert, key, err = readPair(file) // another process may have been first
	return Authority{Cert: cert, Key: key}, err
}

func loadSecret(file string) ([]byte, error) {
	b, err := readPrivate(file)
	if errors.Is(err, fs.ErrNotExist) {
		b = make([]byte, 32)
		_, _ = rand.Read(b) // it never fails
		if err = create(file, b); err != nil {
			return nil, err
		}
		b, err = readPrivate(file)
	}
	if err == nil && len(b) != 32 {
		return nil, damaged(file, errors.New("it must have 32 bytes"))
	}
	return b, err
}

func damaged(file string, err error) error {
	return fleet.Errorf(fleet.Invalid, "key file %s is damaged: %w", file, err).WithHint("restore it from a backup")
}

// readPair reads a key and its certificate from one file.
func readPair(file string) (*x509.Certificate, crypto.Signer, error) {
	b, err := readPrivate(file)
	if err != nil {
		return nil, nil, err
	}
	pair, err := tls.X509KeyPair(b, b)
	if err != nil {
		return nil, nil, damaged(file, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, nil, damaged(file, errors.New("its key cannot sign"))
	}
	return pair.Leaf, key, nil
}

func encodePair(cert *x509.Certificate, key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...), nil
}

// readPrivate reads a file that only its owner may read.
func readPrivate(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, fleet.Errorf(fleet.Unavailable, "read key: %w", err).WithHint("run as the user that owns it")
		}
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fleet.Errorf(fleet.Invalid, "key file %s may be read by others (mode %04o)", file, info.Mode().Perm()).WithHint("chmod 600 %s", file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fleet.Errorf(fleet.Unavailable, "read key: %w", err).WithHint("run as the user that owns it")
	}
	return b, nil
}

// create writes a new private file. One that exists by then is left as it is.
func create(file string, b []byte) error {
	if err := atomicfile.Create(file, b, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return unwritable(err)
	}
	return nil
}

// replace writes a file in place of the one there. The same content is not
// written again.
func replace(file string, b []byte, mode fs.FileMode) error {
	if old, err := os.ReadFile(file); err == nil && string(old) == string(b) {
		return nil
	}
	if err := atomicfile.Write(file, b, mode); err != nil {
		return unwritable(err)
	}
	return nil
}

func unwritable(err error) error {
	return fleet.Errorf(fleet.Unavailable, "key file: %w", err).WithHint("run as the user that owns stateDir; is its disk full?")
}

// lasting are the files that no other can stand in for: agents, operators and
// epochs refer to them. The others are made anew.
var lasting = []string{serverCAFile, agentCAFile, epochFile}

// KeyFiles are the paths of the key files in a state directory, for a backup. The
// error's code is NotFound if one is missing.
func KeyFiles(dir string) ([]string, error) {
	if gone := Missing(dir); len(gone) > 0 {
		return nil, fleet.Errorf(fleet.NotFound, "%s lacks %s", dir, strings.Join(gone, ", "))
	}
	var out []string
	for _, name := range append(slices.Clone(lasting), ticketFile, serverFile) {
		if file := filepath.Join(dir, name); exists(file) {
			out = append(out, file)
		}
	}
	return out, nil
}

// IsKeyFile reports whether a file of this name is one of a control plane's keys.
func IsKeyFile(name string) bool {
	return slices.Contains(lasting, name) || name == ticketFile || name == serverFile
}

// Missing are the names of the key files that a control plane with a fleet cannot
// do without and that dir does not have.
func Missing(dir string) []string {
	return slices.DeleteFunc(slices.Clone(lasting), func(name string) bool { return exists(filepath.Join(dir, name)) })
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

// EpochKey reads the epoch key of an existing directory, for looking only. The
// error's code is NotFound before the first start.
func EpochKey(dir string) ([]byte, error) {
	file := filepath.Join(dir, epochFile)
	b, err := readPrivate(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fleet.Errorf(fleet.NotFound, "%s does not exist: no control plane has run with this stateDir", file)
	case err == nil && len(b) != 32:
		return nil, damaged(file, errors.New("it must have 32 bytes"))
	}
	return b, err
}
