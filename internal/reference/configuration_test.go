// SPDX-License-Identifier: MIT

package reference

import (
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/cli"
	"github.com/arcanesys/nixfleet/internal/config"
)

// required are the settings of agent.toml that have no default.
var required = []struct{ name, table, line string }{
	{"machineId", "", `machineId = "web-01"`},
	{"controlPlane.url", "controlPlane", `url = "https://fleet.example.org:8444"`},
	{"trust.rootFile", "trust", `rootFile = "/etc/nixfleet/root.json"`},
}

const example = `machineId = "web-01"
tags = ["web", "prod"]

[controlPlane]
url = "https://fleet.example.org:8444"

[trust]
rootFile = "/etc/nixfleet/root.json"

[confirm]
beacons = ["tcp://gateway.example.org:22"]

[checks.web]
kind = "http"
url = "http://127.0.0.1/health"
startPeriodSeconds = 30.0
`

const exampleProject = `server = "https://fleet.example.org:8443"
ca = "ca.pem"
fleet = "example.org"
root = "trust/root.json"

[cache]
url = "https://cache.example.org"
publicKeys = ["cache.example.org-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
push = "s3://cache"
`

func TestConfiguration_IsDescribed(t *testing.T) {
	if _, err := readAgent(t, example); err != nil {
		t.Fatal(err)
	}
	if meta, err := toml.Decode(exampleProject, new(cli.Project)); err != nil || len(meta.Undecoded()) > 0 {
		t.Fatalf("the example of nixfleet.toml: %v, unknown %v", err, meta.Undecoded())
	}
	var b strings.Builder
	b.WriteString("# Configuration\n\nTOML, strict: a setting that does not exist is an error that names it. Durations in seconds are numbers with a fraction; in\nnixfleet.toml they are text such as \"90s\" or \"24h\".\n")

	agent, check := defaultAgent(t)
	b.WriteString("\n## agent.toml\n\n`/etc/nixfleet/agent.toml`, part of the system's closure: a release signer has signed it. The NixOS and nix-darwin modules write it.\n\n```toml\n" + example + "```\n")
	p := printer{t: t, files: source(t, "internal/config"), noDefault: map[string]bool{}}
	for _, r := range required {
		p.noDefault[r.name] = true
	}
	p.also = map[string]reflect.Value{"AgentCheck": check, "Gate": reflect.ValueOf(config.Gate{TimeoutSeconds: 10})}
	p.table(&b, "Agent", agent, "")

	b.WriteString("\n## control-plane.toml\n\n`/etc/nixfleet/control-plane.toml`. An empty file is enough to start with.\n\nThe program keeps to three quarters of the machine's memory, or of what its cgroup allows (`MemoryMax`, `MemoryHigh` of the unit): near\nto it, it collects garbage more often. `GOMEMLIMIT` in its environment, such as `2GiB`, sets another limit; the log says at the start\nwhich it is (`memoryLimit`).\n")
	file := filepath.Join(t.TempDir(), "control-plane.toml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cp, err := config.ReadControlPlane(file)
	if err != nil {
		t.Fatal(err)
	}
	p.noDefault = nil
	p.table(&b, "ControlPlane", reflect.ValueOf(cp), "")

	b.WriteString("\n## nixfleet.toml\n\nSettings that the operators of a fleet share, beside its flake: the `nixfleet` command looks for it in the working directory and\nabove. Flags, environment and saved credentials override it. Files in it are relative to its folder.\nA file of another user, or one that everybody may write, is not read unless `--project FILE` names it.\n\n```toml\n" + exampleProject + "```\n")
	p.files = source(t, "internal/cli")
	p.table(&b, "Project", reflect.ValueOf(cli.DefaultProject()), "")
	b.WriteString("\n## Environment of the nixfleet command\n\n| variable | meaning |\n| --- | --- |\n")
	for _, v := range [][2]string{
		{"`NIXFLEET_SERVER`", "control plane; the flag --server comes before it"},
		{"`NIXFLEET_CA`", "PEM file with its CA; the flag --ca comes before it"},
		{"`NIXFLEET_API_KEY`", "the API key itself; the flag --key-file comes before it. A key that names no control plane is sent only where --server or NIXFLEET_SERVER says"},
		{"`NIXFLEET_SIGN_KEY`", "secret key file that signs releases; the flag --sign-key comes before it"},
		{"`XDG_CONFIG_HOME`", "credentials are in nixfleet/credentials.toml below it; without it, below ~/.config"},
		{"`XDG_STATE_HOME`", "the audit checkpoints are in nixfleet/ below it; without it, below ~/.local/state"},
	} {
		b.WriteString(row(v[0], v[1]))
	}
	golden(t, "configuration.md", b.String())
}

// readAgent reads text as agent.toml.
func readAgent(t *testing.T, text string) (config.Agent, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.ReadAgent(file)
}

// defaultAgent is the configuration and a health check with only the required
// settings.
func defaultAgent(t *testing.T) (agent, check reflect.Value) {
	t.Helper()
	text := func(without int) string {
		s := ""
		for i, r := range required {
			if r.table != "" {
				s += "[" + r.table + "]\n"
			}
			if i != without {
				s += r.line + "\n"
			}
		}
		return s + "[checks.x]\nkind = \"tcp\"\naddress = \"localhost:80\"\n"
	}
	a, err := readAgent(t, text(-1))
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range required {
		if _, err := readAgent(t, text(i)); err == nil || !strings.Contains(err.Error(), r.name) {
			t.Errorf("without %s: %v; is it still required?", r.name, err)
		}
	}
	c := a.HealthChecks()[0]
	c.Address, c.Kind = "", ""
	return reflect.ValueOf(a), reflect.ValueOf(c)
}

// printer writes tables of the settings that a struct has.
type printer struct {
	t         *testing.T
	files     []*ast.File
	noDefault map[string]bool
	also      map[string]reflect.Value // defaults that are in another type
}

// table writes the settings of a struct, then the tables below it.
func (p printer) table(b *strings.Builder, name string, defaults reflect.Value, path string) {
	p.t.Helper()
	spec, doc := p.find(name)
	if path != "" {
		b.WriteString("\n### [" + path + "]\n\n" + said(name, sentence(doc)) + "\n")
	}
	var rows strings.Builder
	type below struct {
		name, path string
		value      reflect.Value
		doc        string
	}
	var tables []below
	for _, f := range spec.Fields.List {
		field, ok := defaults.Type().FieldByName(f.Names[0].Name)
		if !ok {
			p.t.Fatalf("%s.%s has no value", name, f.Names[0])
		}
		tag := reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("toml")
		if tag == "" {
			tag = reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json")
		}
		value := reflect.Indirect(defaults.FieldByIndex(field.Index))
		full := strings.TrimPrefix(path+"."+tag, ".")
		meaning := sentence(f.Doc, f.Comment)
		switch t := f.Type.(type) {
		case *ast.Ident:
			if value.Kind() == reflect.Struct {
				tables = append(tables, below{t.Name, full, value, meaning})
				continue
			}
		case *ast.MapType:
			kind := t.Value.(*ast.Ident).Name
			tables = append(tables, below{kind, full + ".NAME", p.also[kind], meaning})
			continue
		}
		if meaning == "" {
			p.t.Errorf("%s.%s has no comment that says what it means", name, f.Names[0])
		}
		if !value.IsValid() { // a pointer that is nil: no default
			value = reflect.Zero(field.Type.Elem())
			rows.WriteString(row("`"+tag+"`", kindOf(value.Type()), "", strings.TrimSuffix(said(f.Names[0].Name, meaning), ".")))
			continue
		}
		def := literal(value)
		if p.noDefault[full] {
			def = "required"
		}
		rows.WriteString(row("`"+tag+"`", kindOf(value.Type()), def, strings.TrimSuffix(said(f.Names[0].Name, meaning), ".")))
	}
	if rows.Len() > 0 {
		b.WriteString("\n| setting | type | default | meaning |\n| --- | --- | --- | --- |\n" + rows.String())
	}
	for _, s := range tables {
		p.table(b, s.name, s.value, s.path)
		if s.doc != "" {
			b.WriteString("\n" + s.doc + "\n")
		}
	}
}

// said is a comment without the name that it begins with in Go.
func said(name, comment string) string {
	for _, verb := range []string{"is", "are", "says", "holds", "declares"} {
		if rest, ok := strings.CutPrefix(comment, name+" "+verb+" "); ok {
			if verb == "declares" {
				rest = "what declares " + rest
			}
			return strings.ToUpper(rest[:1]) + rest[1:]
		}
	}
	return comment
}

func (p printer) find(name string) (*ast.StructType, *ast.CommentGroup) {
	p.t.Helper()
	for _, f := range p.files {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range g.Specs {
				if ts, ok := s.(*ast.TypeSpec); ok && ts.Name.Name == name {
					return ts.Type.(*ast.StructType), g.Doc
				}
			}
		}
	}
	p.t.Fatalf("no struct %s", name)
	return nil, nil
}

func kindOf(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[cli.Duration]():
		return "duration"
	case t == reflect.TypeFor[fleet.HealthCheck]():
		return "table"
	case t.Kind() == reflect.Slice:
		return "list of " + kindOf(t.Elem())
	case t.Kind() == reflect.Float64:
		return "number"
	case t.Kind() == reflect.Int:
		return "whole number"
	case t.Kind() == reflect.Bool:
		return "true or false"
	}
	return "text"
}

// literal is a default as TOML writes it; empty for a zero value.
func literal(v reflect.Value) string {
	switch d, isDuration := v.Interface().(cli.Duration); {
	case isDuration:
		return fmt.Sprintf("`%q`", strings.NewReplacer("h0m0s", "h", "m0s", "m").Replace(d.String()))
	case v.Kind() == reflect.Slice && v.Len() == 0, v.Kind() == reflect.String && v.Len() == 0:
		return ""
	case v.Kind() == reflect.Slice:
		var words []string
		for i := range v.Len() {
			words = append(words, fmt.Sprintf("%q", v.Index(i)))
		}
		return "`[" + strings.Join(words, ", ") + "]`"
	case v.Kind() == reflect.String:
		return fmt.Sprintf("`%q`", v)
	}
	return fmt.Sprintf("`%v`", v)
}
