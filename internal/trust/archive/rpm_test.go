package archive

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/trust/fixture"
	"github.com/cordon-project/cordon/internal/trust/rpm"
)

// testdata/signed.rpm is unsigned.rpm after "rpmsign --addsign" with rpm-key.asc;
// both were made by rpmbuild 4.18. It brings one script.
const rpmProgram = "#!/bin/sh\necho tool\n"

func (m *machine) rpmFile(name string) string {
	return m.write("/tmp/"+name, testdata(m.t, name))
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRPM(t *testing.T) {
	m := newMachine(t)
	m.write("/etc/pki/rpm-gpg/RPM-GPG-KEY-tests", testdata(t, "rpm-key.asc"))
	signed := m.rpmFile("signed.rpm")
	m.restrict()
	if err := m.admit(m.rpmFile("unsigned.rpm")); !errors.Is(err, ErrUnsigned) || m.has(rpmProgram) {
		t.Errorf("unsigned: %v", err)
	}
	changed := bytes.Replace(testdata(t, "signed.rpm"), []byte("for a test"), []byte("for a TEST"), 1)
	if err := m.admit(m.write("/tmp/changed.rpm", changed)); !errors.Is(err, ErrUnsigned) || m.has(rpmProgram) {
		t.Errorf("changed: %v", err)
	}
	if err := m.admit(signed); err != nil || !m.has(rpmProgram) {
		t.Errorf("signed: %v", err)
	}
	late := newMachine(t)
	late.restrict()
	late.write("/etc/pki/rpm-gpg/RPM-GPG-KEY-tests", testdata(t, "rpm-key.asc"))
	if err := late.admit(late.rpmFile("signed.rpm")); !errors.Is(err, ErrUnsigned) || late.has(rpmProgram) {
		t.Errorf("with a key that came later: %v", err)
	}
}

// The signature of a package is found again in rpm's own database.
func TestRPMDatabase(t *testing.T) {
	fixture.Need(t, "rpm") // to make a database with
	for name, want := range map[string]bool{"signed.rpm": true, "unsigned.rpm": false} {
		m := newMachine(t)
		m.write("/etc/pki/rpm-gpg/RPM-GPG-KEY-tests", testdata(t, "rpm-key.asc"))
		m.restrict()
		out, err := exec.Command("rpm", "--root", m.root, "--dbpath", "/var/lib/rpm", "--force-debian", "-i", "--nodeps", "--noscripts", "--nosignature", m.rpmFile(name)).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		db, err := rpm.Open(m.root)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		err = db.Packages(func(uint64) bool { return false }, func(p *rpm.Package) error {
			for _, f := range p.Vouched(m.Signs) {
				if cordon.Digest(f.Digest) == sha256.Sum256([]byte(rpmProgram)) {
					found = true
				}
			}
			if p.Vouched(func(rpm.Signed) bool { return false }) != nil {
				t.Error("files without a signature")
			}
			return nil
		})
		if err != nil || found != want {
			t.Errorf("%s: found %v, %v", name, found, err)
		}
	}
}

func FuzzRPM(f *testing.F) {
	f.Add(testdata(f, "signed.rpm"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, _, err := rpm.ReadFile(bytes.NewReader(data)); err == nil && p.Name == "" {
			t.Error("a package without a name")
		}
	})
}
