package rpm

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	rpmdb "github.com/knqyf263/go-rpmdb/pkg"
)

// peerDir returns the databases that come with the other reader's module: real
// ones, of all three forms, from distributions between 2007 and 2022.
func peerDir(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/knqyf263/go-rpmdb").CombinedOutput()
	if err != nil {
		t.Fatalf("find the other reader's module: %v: %s", err, out)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "pkg/testdata")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		t.Skipf("the module has no test data here (vendored?): %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	return dir
}

func formOf(name string) func(string, func([]byte) error) error {
	return map[string]func(string, func([]byte) error) error{
		"rpmdb.sqlite": eachSQLite, "Packages.db": eachNDB, "Packages": eachBDB,
	}[name]
}

// TestPeer reads real databases with this package and with go-rpmdb, which was
// written independently and is used by vulnerability scanners.
func TestPeer(t *testing.T) {
	for _, form := range []string{
		"centos5-plain/Packages", "libuuid/Packages", "centos7-plain/Packages", "ubi8-s390x/Packages", // the last one big-endian
		"sle15-bci/Packages.db", "cbl-mariner-2.0/rpmdb.sqlite", "fedora35/rpmdb.sqlite",
	} {
		path, name := filepath.Join(peerDir(t), form), filepath.Base(form)
		t.Run(form, func(t *testing.T) {
			dir := t.TempDir() // SQLite wants to write beside its file
			copyFile(t, path, filepath.Join(dir, name))
			theirs, optional := readPeer(t, filepath.Join(dir, name))
			db := &DB{path: filepath.Join(dir, name), each: formOf(name)}
			var ours []string
			err := db.Packages(func(uint64) bool { return false }, func(p *Package) error {
				for _, f := range p.Files {
					ours = append(ours, describe(p.Name, f.Path, f.Size, f.Mode, f.Config, hex.EncodeToString(f.Digest)))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			sort.Strings(ours)
			// They do not read the state of files. What they have in addition must be
			// what these installations, all of them small images, left out.
			missing, extra := difference(theirs, ours)
			if len(extra) > 0 {
				t.Errorf("only we have %d of %d files, such as %s", len(extra), len(ours), extra[0])
			}
			for _, m := range missing {
				if !optional[m] {
					t.Errorf("only they have %s", m)
				}
			}
			t.Logf("%d files, %d of them not on disk as the package's", len(theirs), len(missing))
		})
	}
}

// readPeer returns the files, and which of them rpm may have left out: it can be
// told to install no documentation and no translations.
func readPeer(t *testing.T, path string) (all []string, optional map[string]bool) {
	t.Helper()
	db, err := rpmdb.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	packages, err := db.ListPackages()
	if err != nil {
		t.Fatal(err)
	}
	optional = map[string]bool{}
	for _, p := range packages {
		files, err := p.InstalledFiles()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			flags := int32(f.Flags)
			if f.Mode&modeType != modeRegular || flags&rpmdb.RPMFILE_GHOST != 0 {
				continue
			}
			one := describe(p.Name, f.Path, int64(uint32(f.Size)), f.Mode, flags&rpmdb.RPMFILE_CONFIG != 0, f.Digest)
			all = append(all, one)
			optional[one] = flags&(rpmdb.RPMFILE_DOC|rpmdb.RPMFILE_LICENSE|rpmdb.RPMFILE_README) != 0 ||
				strings.Contains(f.Path, "/locale/") || strings.Contains(f.Path, "/share/")
		}
	}
	sort.Strings(all)
	return all, optional
}
