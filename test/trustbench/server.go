// SPDX-License-Identifier: MIT

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/proc"
)

// server is a control plane at work in a process of its own.
type server struct {
	dir    string
	agents string // address
	admin  *api.Client
	pool   *x509.CertPool
	pid    int
	stop   func() error
}

func start(ctx context.Context, program string) (*server, error) {
	dir, err := os.MkdirTemp("", "nixfleet-trustbench-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, pool: x509.NewCertPool()}
	var addrs [3]string
	for i := range addrs {
		if addrs[i], err = freeAddress(); err != nil {
			return nil, err
		}
	}
	s.agents = addrs[1]
	state, config := filepath.Join(dir, "state"), filepath.Join(dir, "control-plane.toml")
	text := fmt.Sprintf("stateDir = %q\n[listen]\noperators = %q\nagents = %q\nmetrics = %q\n[tls]\nnames = [\"127.0.0.1\"]\n", state, addrs[0], addrs[1], addrs[2])
	if err = os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := proc.Start(ctx, proc.Cmd{Path: program, Args: []string{"run", "--config", config}})
	if err != nil {
		return nil, err
	}
	s.pid = p.Pid()
	s.stop = func() error {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		res, err := p.Wait()
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, res.Stderr)
		}
		return errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.ready(ctx, p.Done(), addrs[2]); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if err := s.bootstrap(ctx, state, addrs[0]); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (s *server) ready(ctx context.Context, ended <-chan struct{}, metrics string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the control plane is not ready: %w", ctx.Err())
		case <-ended:
			return errors.New("the control plane has ended")
		case <-tick.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+metrics+"/readyz", nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
}

func (s *server) bootstrap(ctx context.Context, state, operators string) error {
	ca, err := os.ReadFile(filepath.Join(state, "ca.pem"))
	if err != nil {
		return err
	}
	s.pool.AppendCertsFromPEM(ca)
	secret, err := os.ReadFile(filepath.Join(state, "bootstrap-secret"))
	if err != nil {
		return err
	}
	client := func(key string) (*api.Client, error) {
		return api.NewClient(api.ClientConfig{BaseURL: "https://" + operators, Key: key, CAPem: ca})
	}
	first, err := client("")
	if err != nil {
		return err
	}
	k, err := first.BootstrapKey(ctx, api.BootstrapRequest{Secret: strings.TrimSpace(string(secret)), Owner: "bench"})
	if err != nil {
		return err
	}
	s.admin, err = client(k.Secret)
	return err
}

// machine is an enrolled machine.
type machine struct {
	id   fleet.MachineID
	tls  *tls.Config
	addr string
	csr  []byte
}

func (s *server) enrol(ctx context.Context, id fleet.MachineID) (*machine, error) {
	if _, err := s.admin.RegisterMachine(ctx, api.MachineRequest{ID: id, Lifecycle: fleet.Active}); err != nil {
		return nil, err
	}
	t, err := s.admin.CreateToken(ctx, id, api.TokenRequest{})
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(id)}}, key)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{RootCAs: s.pool, MinVersion: tls.VersionTLS13, ServerName: "127.0.0.1", NextProtos: []string{"http/1.1"}}
	c, err := api.NewAgentClient(api.AgentClientConfig{BaseURL: "https://" + s.agents, TLS: conf})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	cert, err := c.Enroll(ctx, api.EnrollRequest{Token: t.Token, CSR: csr})
	if err != nil {
		return nil, err
	}
	conf = conf.Clone()
	conf.Certificates = []tls.Certificate{{Certificate: [][]byte{cert.Certificate}, PrivateKey: key}}
	return &machine{id: id, tls: conf, addr: s.agents, csr: csr}, nil
}

// dial makes a connection; with a session, it is to be resumed.
func (m *machine) dial(ctx context.Context, sessions tls.ClientSessionCache) (*tls.Conn, error) {
	conf := m.tls.Clone()
	conf.ClientSessionCache = sessions
	d := tls.Dialer{Config: conf}
	c, err := d.DialContext(ctx, "tcp", m.addr)
	if err != nil {
		return nil, err
	}
	return c.(*tls.Conn), nil
}

// post sends a request on a connection and reads the reply.
func (m *machine) post(ctx context.Context, c *tls.Conn, path string, body []byte) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+m.addr+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	w := bufio.NewWriterSize(c, 32<<10)
	if err = errors.Join(req.Write(w), w.Flush()); err != nil {
		return 0, err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// says is a check-in of a machine on which all is well.
func (m *machine) says() []byte {
	const path = "/nix/store/00000000000000000000000000000000-nixos-system-26.05"
	b, err := json.Marshal(api.CheckIn{
		Machine: m.id, AgentVersion: "bench", System: "x86_64-linux", Line: "main", BootID: "boot-1", State: fleet.AgentIdle,
		Checks:      []fleet.HealthCheckResult{{Name: "system", Kind: fleet.HealthCheckUnit, Status: fleet.HealthCheckPassing, Required: true}},
		Generations: fleet.Generations{Running: path, Booted: path, BootDefault: path},
	})
	if err != nil {
		panic(err) // strings and numbers have a JSON form
	}
	return b
}

// cpu is the processor time that the control plane has had: the sum over its threads
// of the first figure of schedstat (proc(5)).
func (s *server) cpu() (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("the control plane has no threads: %w", err)
	}
	var sum int64
	for _, f := range files {
		b, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) {
			continue // it has ended; Go's threads seldom do
		}
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(b), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum), nil
}

// memory is a field of the control plane's status in MiB: VmRSS, VmHWM.
func (s *server) memory(field string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			var kib float64
			_, err := fmt.Sscan(value, &kib)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("no %s", field)
}

const (
	batches    = 20
	batchCalls = 50 // of one machine: its budget is 200 at once
)

// handshakes is what a connection with a check-in costs the control plane's
// processor: medians over batches, in microseconds.
func handshakes(ctx context.Context, program string) (full, resumed float64, err error) {
	s, err := start(ctx, program)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	var fulls, resumes []float64
	for i := range batches {
		m, err := s.enrol(ctx, fleet.MachineID(fmt.Sprintf("m-%02d", i)))
		if err != nil {
			return 0, 0, err
		}
		// The first check-in says who it is, and is written. It also brings a session.
		session := tls.NewLRUClientSessionCache(1)
		if _, err := m.checkIn(ctx, session); err != nil {
			return 0, 0, err
		}
		for _, kind := range []struct {
			session tls.ClientSessionCache
			to      *[]float64
		}{{nil, &fulls}, {session, &resumes}} {
			before, err := s.cpu()
			if err != nil {
				return 0, 0, err
			}
			for range batchCalls {
				var did bool
				if did, err = m.checkIn(ctx, kind.session); err != nil {
					return 0, 0, err
				}
				if did != (kind.session != nil) {
					return 0, 0, fmt.Errorf("resumed: %t", did)
				}
			}
			after, err := s.cpu()
			if err != nil {
				return 0, 0, err
			}
			*kind.to = append(*kind.to, float64((after-before).Nanoseconds())/1000/batchCalls)
		}
	}
	return median(fulls), median(resumes), nil
}

// checkIn makes a connection, checks in and ends it.
func (m *machine) checkIn(ctx context.Context, sessions tls.ClientSessionCache) (resumed bool, err error) {
	c, err := m.dial(ctx, sessions)
	if err != nil {
		return false, err
	}
	defer c.Close()
	status, err := m.post(ctx, c, api.PathCheckIn, m.says())
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	return c.ConnectionState().DidResume, err
}
