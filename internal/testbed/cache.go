// SPDX-License-Identifier: MIT

package testbed

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/arcanesys/nixfleet/internal/proc"
)

// Cache is a signed binary cache in a folder, as `nix copy --to file://` makes it.
type Cache struct {
	dir    string
	secret string // path of the key file
	public string
}

// NewCache makes a cache in a folder, with a new signing key of that name. The
// folder gets "secret-key", which must not be served, and "cache", which Handler serves.
func NewCache(dir, keyName string) (*Cache, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	c := &Cache{dir: filepath.Join(dir, "cache"), secret: filepath.Join(dir, "secret-key")}
	if err = os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	public, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make cache key: %w", err)
	}
	c.public = keyName + ":" + base64.StdEncoding.EncodeToString(public)
	text := keyName + ":" + base64.StdEncoding.EncodeToString(secret)
	if err := os.WriteFile(c.secret, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write cache key: %w", err)
	}
	info := []byte("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n")
	if err := os.WriteFile(filepath.Join(c.dir, "nix-cache-info"), info, 0o644); err != nil {
		return nil, fmt.Errorf("write cache info: %w", err)
	}
	return c, nil
}

// Twin makes a cache in another folder that signs with the same key, as a thief of
// the key can.
func (c *Cache) Twin(dir string) (*Cache, error) {
	t := &Cache{dir: filepath.Join(dir, "cache"), secret: c.secret, public: c.public}
	if err := os.MkdirAll(t.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	return t, nil
}

// PublicKey returns the public key, as in Nix's option trusted-public-keys.
func (c *Cache) PublicKey() string { return c.public }

// SecretKeyFile returns the path of the signing key, in Nix's format.
func (c *Cache) SecretKeyFile() string { return c.secret }

// URL returns the cache as a store to which `nix copy --to` pushes, with the key
// that signs.
func (c *Cache) URL() string {
	return "file://" + c.dir + "?secret-key=" + c.secret + "&compression=zstd"
}

// Store returns the cache as a store to which Nix copies, without the key.
func (c *Cache) Store() string { return "file://" + c.dir }

// Push signs the closures of store paths of this machine and adds them.
func (c *Cache) Push(ctx context.Context, paths ...string) error {
	args := append([]string{"copy", "--no-check-sigs", "--to", c.URL()}, paths...)
	if _, err := proc.Run(ctx, proc.Cmd{Path: "nix", Args: args, Env: nixEnv()}); err != nil {
		return fmt.Errorf("push to cache: %w", err)
	}
	return nil
}

// Handler serves the cache to substituters.
func (c *Cache) Handler() http.Handler { return http.FileServer(http.Dir(c.dir)) }
