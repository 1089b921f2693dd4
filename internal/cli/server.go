// SPDX-License-Identifier: MIT

package cli

import (
	"strings"
	"sync"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/seen"
)

// server is a control plane and the key to use there.
type server struct {
	URL     string
	CA      []byte // PEM
	Key     string
	urlFrom origin
	caFrom  origin // of CA, if there is one
	keyFrom origin
}

// origin is where a setting comes from.
type origin struct {
	name  string // as messages name it: a flag, a variable or a file
	found foundIn
}

// foundIn says who chose a setting.
type foundIn int

const (
	byHand        foundIn = iota // the user, for this call or this shell
	inCredentials                // the user, when the key was saved
	inProject                    // who wrote the project file that lies here
)

// findServer collects the settings. It uses a saved key only for the server that
// the key was saved for (E09).
func (a *app) findServer() (server, error) {
	p, err := a.readProject()
	if err != nil {
		return server{}, err
	}
	c, err := a.readCredentials()
	if err != nil {
		return server{}, err
	}
	file, _ := a.credentialsFile() // no place for a file: no credentials
	saved, shared := origin{file, inCredentials}, origin{p.file, inProject}
	var s server
	switch {
	case a.flags.set.Changed("server"):
		s.URL, s.urlFrom = a.flags.server, origin{name: "--server"}
	case a.Env("NIXFLEET_SERVER") != "":
		s.URL, s.urlFrom = a.Env("NIXFLEET_SERVER"), origin{name: "NIXFLEET_SERVER"}
	case c.Server != "":
		s.URL, s.urlFrom = c.Server, saved
	default:
		s.URL, s.urlFrom = p.Server, shared
	}
	if s.URL == "" {
		return server{}, fleet.Errorf(fleet.Invalid, "no control plane is named").
			WithHint("give --server, set NIXFLEET_SERVER, or put server = \"https://...\" into %s", projectFile)
	}
	if !strings.HasPrefix(s.URL, "https://") {
		return server{}, fleet.Errorf(fleet.Invalid, "control plane %q: want a URL that begins with https://", s.URL)
	}
	same := s.URL == c.Server
	if err = a.findKey(&s, c, saved, same); err != nil {
		return server{}, err
	}
	file = ""
	switch {
	case a.flags.set.Changed("ca"):
		file, s.caFrom = a.flags.ca, origin{name: "--ca"} // "" for the system's CAs
	case a.Env("NIXFLEET_CA") != "":
		file, s.caFrom = a.Env("NIXFLEET_CA"), origin{name: "NIXFLEET_CA"}
	case same && c.CA != "":
		s.CA, s.caFrom = []byte(c.CA), saved
	case s.URL == p.Server:
		file, s.caFrom = p.CA, shared
	}
	if file != "" {
		s.CA, err = a.readFile(file, 1<<20)
	}
	return s, err
}

// findKey sets the key: the one given for this call, or the saved one if it was
// saved for this server.
func (a *app) findKey(s *server, c credentials, saved origin, same bool) error {
	switch {
	case a.flags.key != "":
		b, err := a.readFile(a.flags.key, 4096)
		if err != nil {
			return err
		}
		s.Key, s.keyFrom = strings.TrimSpace(string(b)), origin{name: "--key-file"}
	case a.Env("NIXFLEET_API_KEY") != "":
		s.Key, s.keyFrom = a.Env("NIXFLEET_API_KEY"), origin{name: "NIXFLEET_API_KEY"}
	case same:
		s.Key, s.keyFrom = c.Key, saved
	}
	return nil
}

// mayHaveKey returns an error unless the key may be sent to the server. A project
// file can lie in any folder that the user works in, so what it names is not
// enough for a key that does not name its control plane itself (E09).
func (s server) mayHaveKey() error {
	key, err := api.ParseKey(s.Key)
	if err != nil {
		return fleet.Errorf(fleet.Invalid, "%s: %w", s.keyFrom.name, err).WithHint("%s", fleet.ErrorHint(err))
	}
	if err := key.Fits(s.URL, s.CA); err != nil {
		from := s.urlFrom.name
		if len(s.CA) > 0 {
			from += ", CA: " + s.caFrom.name
		}
		return fleet.Errorf(fleet.Refused, "the API key (%s) was not sent to %s (%s): %w", s.keyFrom.name, s.URL, from, err).
			WithHint("%s", fleet.ErrorHint(err))
	}
	switch {
	case key.Host != "":
		return nil
	case s.urlFrom.found == byHand, s.urlFrom.found == inCredentials && s.keyFrom.found == inCredentials:
	default:
		return fleet.Errorf(fleet.Refused, "the API key (%s) was not sent to %s, which %s names: it is an older key, which does not say which control plane it is for",
			s.keyFrom.name, s.URL, s.urlFrom.name).
			WithHint("if this is the key's control plane, give --server or set NIXFLEET_SERVER; nixfleet key rotate makes a key that names it")
	}
	return s.ownCA("the API key (" + s.keyFrom.name + ") was not sent")
}

// mayHaveSecret returns an error unless the user chose the server and its CA. The
// bootstrap secret does not name its control plane.
func (s server) mayHaveSecret() error {
	if s.urlFrom.found == inProject {
		return fleet.Errorf(fleet.Refused, "the bootstrap secret was not sent to %s, which %s names", s.URL, s.urlFrom.name).
			WithHint("if this is the secret's control plane, give --server or set NIXFLEET_SERVER")
	}
	return s.ownCA("the bootstrap secret was not sent")
}

// ownCA returns an error if the CA is one that a project file names.
func (s server) ownCA(notSent string) error {
	if len(s.CA) == 0 || s.caFrom.found != inProject {
		return nil
	}
	return fleet.Errorf(fleet.Refused, "%s: %s names the CA that verifies %s", notSent, s.caFrom.name, s.URL).
		WithHint("if this is the control plane's CA, give --ca or set NIXFLEET_CA")
}

// client returns a client of the control plane with the user's key.
func (a *app) client() (*api.Client, error) {
	s, err := a.findServer()
	if err != nil {
		return nil, err
	}
	if s.Key == "" {
		return nil, fleet.Errorf(fleet.Unauthenticated, "no API key for %s", s.URL).
			WithHint("nixfleet key bootstrap makes the first one; or set NIXFLEET_API_KEY, or give --key-file")
	}
	if err := s.mayHaveKey(); err != nil {
		return nil, err
	}
	return a.connect(s)
}

// shellClient is client for shell completion, which may not read standard input.
func (a *app) shellClient() (*api.Client, error) {
	if a.flags.key == "-" || a.flags.ca == "-" {
		return nil, fleet.Errorf(fleet.Invalid, "completion cannot read standard input")
	}
	return a.client()
}

// connect returns a client that echoes what this user has seen of the control
// plane, so that an old copy of its database is noticed (E12). Without a place to
// keep that, it goes on without.
func (a *app) connect(s server) (*api.Client, error) {
	var told sync.Map
	conf := api.ClientConfig{BaseURL: s.URL, Key: s.Key, CAPem: s.CA, UserAgent: "nixfleet/" + a.Version, LeftOut: func(field string) {
		if _, again := told.LoadOrStore(field, true); !again {
			a.Say("warning: %s in a reply of the control plane is not as nixfleet %s knows it, and is left out", field, a.Version)
		}
	}}
	if at, err := seen.At(a.Env, s.URL); err == nil && s.Key != "" {
		warn := sync.OnceFunc(func() { a.Say("warning: %v", err) })
		if conf.Epoch, err = at.Epoch(); err != nil {
			warn()
		}
		conf.SawEpoch = func(epoch string) {
			if err = at.KeepEpoch(epoch); err != nil {
				warn()
			}
		}
	}
	return api.NewClient(conf)
}
