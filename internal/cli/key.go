// SPDX-License-Identifier: MIT

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/atomicfile"
	"github.com/arcanesys/nixfleet/internal/cli/view"
	"github.com/arcanesys/nixfleet/internal/command"
)

func (a *app) keyCmd() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "API keys of operators", Example: "  nixfleet key create --owner alice --role deploy"}
	c.AddCommand(a.keyBootstrapCmd(), a.keyListCmd(), a.keyCreateCmd(), a.keyRotateCmd(), a.keyRevokeCmd(), a.keyWhoamiCmd())
	return c
}

func (a *app) keyBootstrapCmd() *cobra.Command {
	var owner, secretFile string
	var save bool
	c := &cobra.Command{
		Use: "bootstrap", Short: "Make the first admin key, with the control plane's one-time secret",
		Long: `Make the first admin key, with the control plane's one-time secret.

The control plane writes the secret to the file that bootstrap.secretFile in its configuration
names. It works once. It is sent only to a control plane that you name: with --server, or
NIXFLEET_SERVER, or in the credentials file. --save writes the key to the user's credentials file.
The key is bound to this control plane, as nixfleet key create --help explains.`,
		Example: "  sudo cat /var/lib/nixfleet/control-plane/bootstrap-secret | nixfleet key bootstrap --owner alice --secret-file - --save",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if owner == "" || secretFile == "" {
				return command.Usagef("give --owner NAME and --secret-file FILE")
			}
			secret, err := a.readFile(secretFile, 4096)
			if err != nil {
				return err
			}
			s, err := a.findServer()
			if err != nil {
				return err
			}
			if err = s.mayHaveSecret(); err != nil {
				return err
			}
			s.Key = ""
			c, err := a.connect(s)
			if err != nil {
				return err
			}
			k, err := c.BootstrapKey(cmd.Context(), api.BootstrapRequest{Secret: strings.TrimSpace(string(secret)), Owner: owner})
			if err != nil {
				return err
			}
			k.Secret = c.BindKey(k.Secret)
			if save {
				if err := a.saveCredentials(s, k.Secret); err != nil {
					a.Say("the key was made, but could not be saved; save it yourself")
					return errors.Join(err, a.printKey(k))
				}
			}
			return a.printKey(k)
		},
	}
	c.Flags().StringVar(&owner, "owner", a.Env("USER"), "whose key it is")
	c.Flags().StringVar(&secretFile, "secret-file", "", "file with the one-time secret; - is standard input")
	c.Flags().BoolVar(&save, "save", false, "save the key in the user's credentials file")
	return c
}

// saveCredentials writes the credentials file, which only the user may read.
func (a *app) saveCredentials(s server, key string) error {
	file, err := a.credentialsFile()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fleet.Errorf(fleet.Invalid, "save credentials: %w", err)
	}
	text := "server = " + strconv.Quote(s.URL) + "\nkey = " + strconv.Quote(key) + "\nca = " + strconv.Quote(string(s.CA)) + "\n"
	if err := atomicfile.Write(file, []byte(text), 0o600); err != nil {
		return fleet.Errorf(fleet.Invalid, "save credentials: %w", err)
	}
	a.Say("saved in %s", file)
	return nil
}

func (a *app) keyListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List API keys, without their secrets", Example: "  nixfleet key list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			keys, err := all(cmd.Context(), func(ctx context.Context, p fleet.PageRequest) (api.Page[fleet.Key], error) { return c.Keys(ctx, p) })
			if err != nil {
				return err
			}
			return a.Print(keys, func(w io.Writer) {
				rows := make([][]string, len(keys))
				for i, k := range keys {
					state := "valid"
					switch {
					case k.RevokedAt > 0:
						state = "revoked " + view.Date(k.RevokedAt)
					case k.ExpiresAt > 0 && k.ExpiresAt <= time.Now().UnixMilli():
						state = "expired " + view.Date(k.ExpiresAt)
					case k.ExpiresAt > 0:
						state = "until " + view.Date(k.ExpiresAt)
					}
					rows[i] = []string{k.ID, k.Owner, string(k.Role), view.Date(k.CreatedAt), view.Date(k.LastUsed), state}
				}
				view.Table(w, "ID OWNER ROLE CREATED USED STATE", rows)
			})
		},
	}
}

func (a *app) keyCreateCmd() *cobra.Command {
	var owner, role string
	var tags []string
	var ttl time.Duration
	c := &cobra.Command{
		Use: "create", Short: "Make an API key; its secret is shown once",
		Long: `Make an API key; its secret is shown once.

The key is bound to the control plane under the address used now: nfk_<id>_<secret>_<host>, then
_<CA hash> if the control plane has a CA of its own: the SHA-256 digest of its root certificate, DER, in hex.
Nixfleet sends it to no other host and under no other CA. If the control plane gets another address
or another CA, change these two parts in the key; only nfk_<id>_<secret> is sent. A key without
them is sent only to a control plane that --server or NIXFLEET_SERVER names.`,
		Example: "  nixfleet key create --owner ci --role deploy --ttl 2160h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case !fleet.Role(role).Valid():
				return command.Usagef("--role %q is not auditor, readonly, deploy or admin", role)
			case cmd.Flags().Changed("ttl") && ttl <= 0:
				return command.Usagef("--ttl %s must be above 0; without it, the key is valid until it is revoked", ttl)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			req := api.KeyRequest{Owner: owner, Role: fleet.Role(role), Tags: toTags(tags)}
			if ttl != 0 {
				req.ExpiresAt = time.Now().Add(ttl).UnixMilli()
			}
			k, err := c.CreateKey(cmd.Context(), req)
			if err != nil {
				return err
			}
			k.Secret = c.BindKey(k.Secret)
			return a.printKey(k)
		},
	}
	c.Flags().StringVar(&owner, "owner", "", "whose key it is")
	c.Flags().StringVar(&role, "role", string(fleet.RoleReadonly), "auditor, readonly, deploy or admin")
	c.Flags().StringSliceVar(&tags, "tag", nil, "limit the key to machines with one of these tags")
	c.Flags().DurationVar(&ttl, "ttl", 0, "how long the key is valid (default: until it is revoked)")
	return c
}

func (a *app) keyRotateCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rotate ID", Short: "Make a new secret for a key; the old one is revoked at once", Example: "  nixfleet key rotate 01JD...", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			k, err := c.RotateKey(cmd.Context(), argv[0])
			if err != nil {
				return err
			}
			k.Secret = c.BindKey(k.Secret)
			return a.printKey(k)
		},
	}
}

func (a *app) keyRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Revoke a key", Example: "  nixfleet key revoke 01JD...", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			k, err := c.RevokeKey(cmd.Context(), argv[0])
			if err != nil {
				return err
			}
			return a.Print(k, func(w io.Writer) { fmt.Fprintf(w, "key %s of %s is revoked\n", k.ID, k.Owner) })
		},
	}
}

func (a *app) keyWhoamiCmd() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Show the API key that the commands use, without its secret", Example: "  nixfleet key whoami", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			k, err := c.Whoami(cmd.Context())
			if err != nil {
				return err
			}
			return a.Print(k, func(w io.Writer) {
				fmt.Fprintf(w, "key %s of %s, role %s", k.ID, k.Owner, k.Role)
				if len(k.Tags) > 0 {
					fmt.Fprintf(w, ", for machines with one of the tags %v", k.Tags)
				}
				if k.ExpiresAt > 0 {
					fmt.Fprintf(w, ", until %s", view.Date(k.ExpiresAt))
				}
				fmt.Fprintln(w)
			})
		},
	}
}

func (a *app) printKey(k api.NewKey) error {
	return a.Print(k, func(w io.Writer) {
		fmt.Fprintln(w, k.Secret)
		a.Say("key %s of %s, role %s; it is not shown again", k.Key.ID, k.Key.Owner, k.Key.Role)
	})
}
