// Package aptrepo makes Debian packages and signed repositories for tests, as
// the tools of a distribution would, without needing them.
//
// It owns the formats deb(5) and apt-ftparchive's flat repository, as far as apt
// and dpkg want them.
package aptrepo

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Package is a Debian package to be made.
type Package struct {
	Name, Version string
	Scripts       map[string]string // preinst, postinst …: their content
	Files         map[string][]byte // programs by absolute path, mode 0755
	Plain         map[string][]byte // files of mode 0644
}

// File is the name of the package's archive.
func (p Package) File() string { return fmt.Sprintf("%s_%s_amd64.deb", p.Name, p.Version) }

func (p Package) control() string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: tests <tests@example.org>\nDescription: for a test\n", p.Name, p.Version)
}

// Deb returns the archive, the same for the same package.
func (p Package) Deb() ([]byte, error) {
	control, data := newTarball(), newTarball()
	var sums strings.Builder
	for _, kind := range []struct {
		mode  int64
		files map[string][]byte
	}{{0o755, p.Files}, {0o644, p.Plain}} {
		for _, path := range slices.Sorted(maps.Keys(kind.files)) {
			data.add("."+path, kind.mode, kind.files[path])
			fmt.Fprintf(&sums, "%x  %s\n", md5.Sum(kind.files[path]), strings.TrimPrefix(path, "/"))
		}
	}
	control.add("./control", 0o644, []byte(p.control()))
	control.add("./md5sums", 0o644, []byte(sums.String()))
	for _, name := range slices.Sorted(maps.Keys(p.Scripts)) {
		control.add("./"+name, 0o755, []byte(p.Scripts[name]))
	}
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		tar  *tarball
	}{{"debian-binary", nil}, {"control.tar.gz", control}, {"data.tar.gz", data}} {
		content := []byte("2.0\n")
		if m.tar != nil {
			var err error
			if content, err = m.tar.close(); err != nil {
				return nil, fmt.Errorf("make %s: %w", p.File(), err)
			}
		}
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, 0, 0, 0, 0o100644, len(content))
		out.Write(content)
		if len(content)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes(), nil
}

type tarball struct {
	buf  bytes.Buffer
	zip  *gzip.Writer
	tar  *tar.Writer
	dirs []string
	err  error
}

func newTarball() *tarball {
	t := &tarball{}
	t.zip = gzip.NewWriter(&t.buf)
	t.tar = tar.NewWriter(t.zip)
	return t
}

func (t *tarball) add(name string, mode int64, content []byte) {
	var above []string
	for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
		above = append(above, dir)
	}
	slices.Reverse(above)
	for _, dir := range above {
		if !slices.Contains(t.dirs, dir) {
			t.dirs = append(t.dirs, dir)
			t.write(&tar.Header{Typeflag: tar.TypeDir, Name: "./" + dir + "/", Mode: 0o755}, nil)
		}
	}
	t.write(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}, content)
}

func (t *tarball) write(h *tar.Header, content []byte) {
	if t.err == nil {
		t.err = t.tar.WriteHeader(h)
	}
	if t.err == nil && content != nil {
		_, t.err = t.tar.Write(content)
	}
}

func (t *tarball) close() ([]byte, error) {
	for _, end := range []func() error{t.tar.Close, t.zip.Close} {
		if t.err == nil {
			t.err = end()
		}
	}
	return t.buf.Bytes(), t.err
}

// Key signs repositories.
type Key struct{ entity *openpgp.Entity }

// NewKey makes a key.
func NewKey() (Key, error) {
	e, err := openpgp.NewEntity("tests", "", "tests@example.org", &packet.Config{
		Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048,
		// The clock of a virtual machine may be a little behind.
		Time: func() time.Time { return time.Now().Add(-24 * time.Hour) },
	})
	return Key{e}, err
}

// Public is the keyring, armored.
func (k Key) Public() ([]byte, error) {
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		return nil, err
	}
	if err := k.entity.Serialize(w); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// Repository writes the archives with a signed index into dir, for a line
// "deb [signed-by=KEYRING] copy:DIR ./" of sources.list(5).
func (k Key) Repository(dir string, debs map[string][]byte) error {
	var packages strings.Builder
	for name, deb := range debs {
		control, err := controlOf(deb)
		if err != nil {
			return fmt.Errorf("index %s: %w", name, err)
		}
		fmt.Fprintf(&packages, "%sFilename: ./%s\nSize: %d\nSHA256: %x\n\n", control, name, len(deb), sha256.Sum256(deb))
		if err := os.WriteFile(filepath.Join(dir, name), deb, 0o644); err != nil {
			return err
		}
	}
	index := []byte(packages.String())
	release := fmt.Sprintf("Origin: tests\nDate: %s\nSHA256:\n %x %d Packages\n",
		time.Now().Add(-time.Hour).UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"), sha256.Sum256(index), len(index))
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, k.entity.PrivateKey, nil)
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte(release)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	signed.WriteByte('\n')
	if err := os.WriteFile(filepath.Join(dir, "Packages"), index, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "InRelease"), signed.Bytes(), 0o644)
}

// controlOf reads the control file of an archive with gzipped members.
func controlOf(deb []byte) (string, error) {
	rest := deb[min(8, len(deb)):]
	for len(rest) >= 60 {
		var size int
		if _, err := fmt.Sscan(string(rest[48:58]), &size); err != nil || size > len(rest)-60 {
			return "", errors.New("a member is broken")
		}
		name, body := string(rest[:16]), rest[60:60+size]
		rest = rest[min(60+size+size%2, len(rest)):]
		if !strings.HasPrefix(name, "control.tar.gz") {
			continue
		}
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return "", err
		}
		for t := tar.NewReader(z); ; {
			h, err := t.Next()
			if err != nil {
				return "", err
			}
			if filepath.Clean(h.Name) == "control" {
				var b bytes.Buffer
				_, err := b.ReadFrom(t)
				return strings.TrimRight(b.String(), "\n") + "\n", err
			}
		}
	}
	return "", errors.New("it has no control.tar.gz")
}
