// SPDX-License-Identifier: MIT

package cli

import (
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli/documents"
)

// documents is what the commands for signed documents need of this command line.
func (a *app) documents() documents.Host {
	return documents.Host{
		Line: a.Line, Client: a.client, Seen: a.seen, Read: a.readFile, Release: a.findRelease,
		Project: func() (documents.Project, error) {
			p, err := a.readProject()
			return documents.Project{Root: p.Root, FleetID: p.FleetID, Line: fleet.Line(p.Line)}, err
		},
	}
}
