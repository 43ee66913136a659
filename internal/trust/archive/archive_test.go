package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/testkit/aptrepo"
)

// machine is a root directory with apt's lists and keyrings, and a ledger.
type machine struct {
	t    *testing.T
	root string
	good map[cordon.Digest]bool // what is trusted already
	*Ledger
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, root: t.TempDir(), good: map[cordon.Digest]bool{}}
	m.reopen()
	return m
}

func (m *machine) reopen() {
	m.Ledger = OpenLedger(m.root, filepath.Join(m.root, "admitted"), func(d cordon.Digest) bool { return m.good[d] }, slog.New(slog.DiscardHandler))
}

func (m *machine) write(path string, data []byte) string {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o600)); err != nil {
		m.t.Fatal(err)
	}
	return path
}

func (m *machine) restrict() {
	m.t.Helper()
	if err := m.Restrict(true); err != nil {
		m.t.Fatal(err)
	}
}

// publish puts a repository with the archives into apt's lists, and the archives
// where apt keeps them.
func (m *machine) publish(name string, k aptrepo.Key, packages ...aptrepo.Package) (paths []string) {
	m.t.Helper()
	dir, debs := m.t.TempDir(), map[string][]byte{}
	for _, p := range packages {
		deb := build(m.t, p)
		debs[p.File()] = deb
		paths = append(paths, m.write("/var/cache/apt/archives/"+p.File(), deb))
	}
	if err := k.Repository(dir, debs); err != nil {
		m.t.Fatal(err)
	}
	for _, f := range []string{"InRelease", "Packages"} {
		data, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			m.t.Fatal(err)
		}
		m.write("/var/lib/apt/lists/"+name+"_._"+f, data)
	}
	return paths
}

func build(t *testing.T, p aptrepo.Package) []byte {
	t.Helper()
	deb, err := p.Deb()
	if err != nil {
		t.Fatal(err)
	}
	return deb
}

func newKey(t *testing.T) (aptrepo.Key, []byte) {
	t.Helper()
	k, err := aptrepo.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	return k, public
}

func tool(name string) aptrepo.Package {
	return aptrepo.Package{
		Name: name, Version: "1",
		Scripts: map[string]string{"preinst": "#!/bin/sh\n# " + name + " pre\n", "postinst": "#!/bin/sh\n# " + name + " post\n", "templates": "no program\n"},
		Files:   map[string][]byte{"/usr/bin/" + name: []byte("program " + name)},
		Plain: map[string][]byte{
			"/usr/share/doc/" + name + "/readme": []byte("no program " + name), "/usr/lib/" + name + ".so.1": []byte("\x7fELF " + name),
			"/usr/lib/python3/dist-packages/" + name + ".py": []byte("# text " + name),
			"/usr/lib/modules/6.1/" + name + ".ko.xz":        []byte("module " + name),
		},
	}
}

// has reports whether a content was admitted.
func (m *machine) has(content string) bool {
	d := cordon.Digest(sha256.Sum256([]byte(content)))
	gate := m.Gate()
	listed := slices.ContainsFunc(m.Entries(), func(e cordon.TrustEntry) bool { return e.Digest == d && e.Size == int64(len(content)) })
	if gate != nil && gate(d) != listed {
		m.t.Errorf("gate and entries differ for %q", content)
	}
	return listed
}

func (m *machine) admit(paths ...string) error { return m.Admit(context.Background(), paths) }

// What a signed list has is admitted with its programs and scripts, and nothing
// else of it; also after a restart, until the machine is unrestricted.
func TestSigned(t *testing.T) {
	m := newMachine(t)
	key, public := newKey(t)
	m.write("/usr/share/keyrings/tests.asc", public)
	paths := m.publish("srv", key, tool("one"), tool("two"))
	m.restrict()
	if err := m.admit(paths...); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, content := range []string{"program one", "program two", "#!/bin/sh\n# one pre\n", "#!/bin/sh\n# two post\n", "\x7fELF one", "# text two", "module one"} {
			if !m.has(content) {
				t.Errorf("%q was not admitted", content)
			}
		}
		for _, content := range []string{"no program one", "no program\n"} {
			if m.has(content) {
				t.Errorf("%q was admitted", content)
			}
		}
		m.reopen()
	}
	if err := m.Restrict(true); err != nil || !m.has("program one") {
		t.Errorf("restricting again: %v", err)
	}
	if err := m.Restrict(false); err != nil {
		t.Errorf("unrestricting: %v", err)
	}
	if m.has("program one") || m.Gate() != nil {
		t.Error("an unrestricted machine remembers what was admitted")
	}
}

// Root, who may call with whatever he likes, gets nothing in.
func TestUnsigned(t *testing.T) {
	for name, attack := range map[string]func(m *machine, evil []byte) string{
		"an archive in apt's cache that no list has": func(m *machine, evil []byte) string {
			return m.write("/var/cache/apt/archives/evil_1_amd64.deb", evil)
		},
		"an archive with a signed one's name": func(m *machine, evil []byte) string {
			return m.write("/var/cache/apt/archives/good_1_amd64.deb", evil)
		},
		"a list that was added to": func(m *machine, evil []byte) string {
			list := m.root + "/var/lib/apt/lists/srv_._Packages"
			old, err := os.ReadFile(list)
			if err != nil {
				m.t.Fatal(err)
			}
			d := cordon.Digest(sha256.Sum256(evil))
			m.write("/var/lib/apt/lists/srv_._Packages", append(old, "Package: evil\nSHA256: "+d.String()+"\n"...))
			return m.write("/tmp/evil.deb", evil)
		},
		"a list in which a digest was changed": func(m *machine, evil []byte) string {
			list := m.root + "/var/lib/apt/lists/srv_._Packages"
			old, err := os.ReadFile(list)
			if err != nil {
				m.t.Fatal(err)
			}
			before, after := cordon.Digest(sha256.Sum256(build(m.t, tool("good")))), cordon.Digest(sha256.Sum256(evil))
			m.write("/var/lib/apt/lists/srv_._Packages", bytes.Replace(old, []byte(before.String()), []byte(after.String()), 1))
			return m.write("/tmp/evil.deb", evil)
		},
		"a key that came after the restriction": func(m *machine, _ []byte) string {
			key, public := newKey(m.t)
			m.write("/usr/share/keyrings/evil.asc", public)
			m.write("/etc/apt/trusted.gpg.d/evil.asc", public)
			return m.publish("evil", key, tool("evil"))[0]
		},
		"a key in place of a trusted one": func(m *machine, _ []byte) string {
			key, public := newKey(m.t)
			m.write("/usr/share/keyrings/tests.asc", public)
			return m.publish("evil", key, tool("evil"))[0]
		},
		"a list without a signature": func(m *machine, evil []byte) string {
			key, _ := newKey(m.t)
			path := m.publish("evil", key, tool("evil"))[0]
			data, err := os.ReadFile(m.root + "/var/lib/apt/lists/evil_._InRelease")
			if err != nil {
				m.t.Fatal(err)
			}
			_, text, _ := strings.Cut(string(data), "\n\n")
			text, _, _ = strings.Cut(text, "-----BEGIN")
			m.write("/var/lib/apt/lists/evil_._Release", []byte(text))
			return path
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			key, public := newKey(t)
			m.write("/usr/share/keyrings/tests.asc", public)
			good := m.publish("srv", key, tool("good"))[0]
			m.restrict()
			evil := build(t, tool("evil"))
			path := attack(m, evil)
			err := m.admit(good, path)
			if alone := m.admit(path); !errors.Is(err, ErrUnsigned) || !errors.Is(alone, ErrUnsigned) {
				t.Errorf("the errors are %v and %v", err, alone)
			}
			if m.has("program evil") || m.has("#!/bin/sh\n# evil pre\n") {
				t.Error("it was admitted")
			}
			if m.has("program good") {
				t.Error("an archive was admitted although another one beside it was refused")
			}
			// The message leads out: the server's word for the archive.
			for _, part := range strings.Split(err.Error(), "cordon trust add ")[1:] {
				hash, _, _ := strings.Cut(part, " ")
				d, ok := cordon.ParseDigest(hash)
				if !ok {
					t.Fatalf("the message has %q for a digest", hash)
				}
				m.good[d] = true
			}
			if err := m.admit(path); err != nil || !m.has("program evil") {
				t.Errorf("with %v trusted: %v", m.good, err)
			}
		})
	}
}

// A keyring that a verified package brings counts from then on.
func TestKeyringUpgrade(t *testing.T) {
	m := newMachine(t)
	old, public := newKey(t)
	m.write("/usr/share/keyrings/tests.asc", public)
	next, nextPublic := newKey(t)
	keys := tool("keys")
	keys.Plain["/usr/share/keyrings/next.asc"] = nextPublic
	path := m.publish("srv", old, keys)[0]
	m.restrict()
	m.write("/usr/share/keyrings/next.asc", nextPublic)
	later := m.publish("next", next, tool("later"))[0]
	if err := m.admit(later); !errors.Is(err, ErrUnsigned) {
		t.Fatalf("before: %v", err)
	}
	if err := m.admit(path); err != nil {
		t.Fatal(err)
	}
	if err := m.admit(later); err != nil || !m.has("program later") {
		t.Errorf("after: %v", err)
	}
}

// An interpreter is known for what it is before the package database has it,
// also after a restart.
func TestRoleAdmitted(t *testing.T) {
	m := newMachine(t)
	key, public := newKey(t)
	m.write("/usr/share/keyrings/tests.asc", public)
	path := m.publish("srv", key, tool("python3.99"))[0]
	m.restrict()
	if err := m.admit(path); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, e := range m.Entries() {
			want := cordon.NoRole
			if e.Digest == cordon.Digest(sha256.Sum256([]byte("program python3.99"))) {
				want = cordon.Python
			}
			if e.Role != want {
				t.Errorf("%+v", e)
			}
		}
		m.reopen()
	}
	if len(m.Entries()) == 0 {
		t.Error("nothing was admitted")
	}
}

// An agent that is just unpacked is one at once: what it replaces may end before it
// has read the package database.
func TestAgentAdmitted(t *testing.T) {
	m := newMachine(t)
	key, public := newKey(t)
	m.write("/usr/share/keyrings/tests.asc", public)
	paths := m.publish("srv", key, tool("cordon"), tool("cordon-like"))
	m.restrict()
	if err := m.admit(paths...); err != nil {
		t.Fatal(err)
	}
	m.reopen()
	all := m.Entries()
	for name, want := range map[string]bool{"cordon": true, "cordon-like": false} {
		digest := cordon.Digest(sha256.Sum256([]byte("program " + name)))
		i := slices.IndexFunc(all, func(e cordon.TrustEntry) bool { return e.Digest == digest })
		if i < 0 || (all[i].Origin == "cordon") != want {
			t.Errorf("%s is in %+v", name, all)
		}
	}
}

// A ledger that is damaged admits nothing, and an unrestricted machine has no gate.
func TestDamagedLedger(t *testing.T) {
	m := newMachine(t)
	key, public := newKey(t)
	m.write("/usr/share/keyrings/tests.asc", public)
	path := m.publish("srv", key, tool("one"))[0]
	m.restrict()
	if err := m.admit(path); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(m.root + "/admitted")
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{nil, whole[:len(whole)-4], append([]byte("x"), whole...)} {
		m.write("/admitted", data)
		m.reopen()
		if m.Gate() == nil || len(m.Entries()) > 0 {
			t.Errorf("%q: the gate is open", data)
		}
		if err := m.admit(path); !errors.Is(err, ErrUnsigned) {
			t.Errorf("%q: %v", data, err)
		}
	}
}

// What is read must be what was hashed.
func TestChangedWhileRead(t *testing.T) {
	m := newMachine(t)
	path := m.write("/a.deb", build(t, tool("good")))
	r, err := open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.f.Close() }() // only read
	m.write("/a.deb", build(t, tool("evil")))
	if _, err := (&verifier{}).contents(t.Context(), r); err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Errorf("the error is %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, path := range []string{"relative.deb", "/dev/zero", "/nonexistent.deb", t.TempDir()} {
		if _, err := open(t.Context(), path); err == nil {
			t.Errorf("%s was opened", path)
		}
	}
}

func FuzzDeb(f *testing.F) {
	seed, err := tool("seed").Deb()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte("!<arch>\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := deb(bytes.NewReader(data), "fuzz")
		if err != nil && found != nil {
			t.Error("an error and a result")
		}
	})
}

func FuzzRelease(f *testing.F) {
	f.Add([]byte("SHA256:\n 0000000000000000000000000000000000000000000000000000000000000000 5 main/Packages\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for path, l := range parseRelease(data) {
			if filepath.Base(path) != "Packages" {
				t.Errorf("%q with %v", path, l)
			}
		}
	})
}

func FuzzLedger(f *testing.F) {
	f.Add(standing{restricted: true, keyrings: map[cordon.Digest]bool{{1}: true}, admitted: map[cordon.Digest]cordon.TrustEntry{{2}: {Digest: cordon.Digest{2}, Size: 7, Origin: "a\nb"}, {3}: {Digest: cordon.Digest{3}, Size: 7, Origin: "c", Role: cordon.Perl}}}.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decode(data)
		if err != nil {
			return
		}
		again, err := decode(s.encode())
		if err != nil || len(again.admitted) != len(s.admitted) || len(again.keyrings) != len(s.keyrings) || again.restricted != s.restricted {
			t.Errorf("%v: %v became %v", err, s, again)
		}
	})
}
