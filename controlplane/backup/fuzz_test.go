// SPDX-License-Identifier: AGPL-3.0-only

package backup

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"filippo.io/age"

	"github.com/arcanesys/nixfleet/fleet"
)

// archiveOf packs a database, and what else names, as backups are packed.
func archiveOf(tb testing.TB, database string, more ...string) []byte {
	tb.Helper()
	m := Manifest{Format: format, Version: "1"}
	var paths []string
	for _, name := range append([]string{databaseName}, more...) {
		p := filepath.Join(tb.TempDir(), name)
		if err := os.WriteFile(p, []byte(database), 0o600); err != nil {
			tb.Fatal(err)
		}
		f, err := describe(p)
		if err != nil {
			tb.Fatal(err)
		}
		paths, m.Files = append(paths, p), append(m.Files, f)
	}
	var b bytes.Buffer
	if err := pack(tb.Context(), m, paths, &b); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// holey is an archive whose database is one hole of size bytes (GNU tar, sparse
// format 1.0).
func holey(tb testing.TB, size int64) []byte {
	tb.Helper()
	text, err := json.Marshal(Manifest{Format: format, Version: "1", Files: []File{{Name: databaseName, Size: size}}})
	if err != nil {
		tb.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	write := func(h *tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			tb.Fatal(err)
		}
	}
	write(&tar.Header{Name: manifestName, Mode: 0o600}, text)
	var records string
	for _, kv := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=" + databaseName, fmt.Sprint("GNU.sparse.realsize=", size)} {
		n := len(kv) + 3
		if n+1 > 9 {
			n++
		}
		records += fmt.Sprintf("%d %s\n", n, kv)
	}
	// tar.Writer writes no such records, so the header's type is put in afterwards.
	write(&tar.Header{Name: "x", Mode: 0o600}, []byte(records))
	holes := make([]byte, 512)
	copy(holes, "0\n")
	write(&tar.Header{Name: "y", Mode: 0o600}, holes)
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	out := b.Bytes()
	at := bytes.Index(out, append([]byte("x"), make([]byte, 99)...))
	out[at+156] = tar.TypeXHeader
	sum := 0
	copy(out[at+148:], "        ")
	for _, c := range out[at : at+512] {
		sum += int(c)
	}
	copy(out[at+148:], fmt.Sprintf("%06o\x00 ", sum))
	return out
}

// A small archive that stands for a large file fills no disk.
func TestUnpack_RefusesHoles(t *testing.T) {
	work := t.TempDir()
	_, err := unpack(t.Context(), bytes.NewReader(holey(t, 64<<20)), work)
	if fleet.ErrorCode(err) != fleet.Invalid || unpacked(t, work) > 0 {
		t.Errorf("%v, and %d bytes were unpacked", err, unpacked(t, work))
	}
}

// unpacked is how many bytes lie below a folder.
func unpacked(tb testing.TB, dir string) (n int64) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		n += info.Size()
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// FuzzUnpack opens a file that is said to be a backup: what it unpacks lies in its
// folder and takes no more room than the file, and what is damaged is refused as
// that.
func FuzzUnpack(f *testing.F) {
	plain := archiveOf(f, "some rows")
	f.Add(plain)
	f.Add(archiveOf(f, "some rows", "epoch.key"))
	f.Add(archiveOf(f, "some rows", "..data"))
	f.Add(plain[:len(plain)/2])
	f.Add(holey(f, 1<<20))
	r, err := age.NewScryptRecipient("pass")
	if err != nil {
		f.Fatal(err)
	}
	r.SetWorkFactor(2)
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, r)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(sealed.Bytes())
	f.Add(bytes.Replace(sealed.Bytes(), []byte(" 2\n"), []byte(" 22\n"), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		above := t.TempDir()
		work := filepath.Join(above, "work")
		if err := os.Mkdir(work, 0o700); err != nil {
			t.Fatal(err)
		}
		archive, err := unseal(bytes.NewReader(data), "pass")
		var m Manifest
		if err == nil {
			m, err = unpack(t.Context(), archive, work)
		}
		if names, _ := os.ReadDir(above); len(names) != 1 {
			t.Fatalf("it left its folder: %v", names)
		}
		if n := unpacked(t, work); n > int64(len(data)) {
			t.Fatalf("%d bytes became %d", len(data), n)
		}
		if err != nil {
			if fleet.ErrorCode(err) != fleet.Invalid || strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Fatalf("refused by %q with code %q", err, fleet.ErrorCode(err))
			}
			return
		}
		for _, file := range m.Files {
			b, err := os.ReadFile(filepath.Join(work, file.Name))
			if err != nil || fleet.SHA256(b) != file.SHA256 || int64(len(b)) != file.Size {
				t.Fatalf("%+v was taken, and is %d bytes, %v", file, len(b), err)
			}
		}
	})
}
