// Package rpm reads the database of the RPM package manager: which files, with
// which digests, each installed package brought.
//
// It owns the three forms the database has on disk, SQLite (rpm 4.16 and newer),
// NDB (SUSE) and Berkeley DB (before), and the package headers in them.
//
// What it promises: it only reads, though SQLite leaves the shared-memory file
// beside its database that every reader needs, rpm's own included. Packages come
// one at a time, so memory is bounded by the largest header, not by the number
// of packages. A database that is broken, cut off or being written is an error
// that says where, never a smaller result, and no content of the file makes it
// panic, loop, or allocate out of proportion to what is really there. It leaves
// no goroutines behind.
//
// The reader is Cordon's own because a trust set depends on the promises above.
// The library at hand, go-rpmdb v0.1.1, gives back some of the packages of a
// damaged SQLite database without an error, never returns from some damaged
// Berkeley DB files, and reads the whole database into memory for every change.
// It is what the tests compare this package with, on databases of real machines.
package rpm

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
)

// Dirs are the places where distributions keep the database, below the root
// directory, in the order in which they are tried.
var Dirs = []string{"var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"}

// maxHeader is the size in bytes beyond which rpm itself takes a header for
// broken (headerMaxbytes).
const maxHeader = 256 << 20

// ErrNone says that there is no rpm database at all.
var ErrNone = errors.New("no rpm database")

// File is one regular file that a package brought.
type File struct {
	Path   string // absolute
	Size   int64  // in bytes
	Mode   uint16 // as in stat(2)
	Config bool   // the administrator may have changed it
	// Digest is the content that the package brought: 16 bytes of MD5 or 32 of
	// SHA-256, as the package's Algo says.
	Digest []byte
}

// Package is one installed package.
type Package struct {
	Name string
	// Stamp changes whenever the header changes. It holds within this process only.
	Stamp uint64
	// Algo is the number of the digest algorithm, [MD5] or [SHA256]. Packages that
	// use another one have no Files: see [Package.Known].
	Algo  int
	Files []File

	header []byte // until see returns
}

// Known reports whether the package's digests can be checked here.
func (p *Package) Known() bool { return digestSize(p.Algo) > 0 }

// The digest algorithms that are checked here, by their numbers in RFC 4880, 9.4.
const (
	MD5    = 1
	SHA256 = 8
)

func digestSize(algo int) int {
	switch algo {
	case MD5:
		return md5.Size
	case SHA256:
		return sha256.Size
	}
	return 0
}

// DB is a database on disk.
type DB struct {
	path string
	// each yields the headers; one is valid until see returns.
	each func(path string, see func(header []byte) error) error
}

var seed = maphash.MakeSeed()

// Open finds the database below root, / on a real machine. The error wraps
// [ErrNone] where there is none.
func Open(root string) (*DB, error) {
	for _, dir := range Dirs {
		for _, form := range []struct {
			name string
			each func(string, func([]byte) error) error
		}{{"rpmdb.sqlite", eachSQLite}, {"Packages.db", eachNDB}, {"Packages", eachBDB}} {
			path := filepath.Join(root, dir, form.name)
			st, err := os.Stat(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("open rpm database: %w", err)
			}
			if !st.Mode().IsRegular() {
				return nil, fmt.Errorf("open rpm database: %s is not a regular file", path)
			}
			return &DB{path: path, each: form.each}, nil
		}
	}
	return nil, ErrNone
}

// Packages yields every package, in the order of the database, until see
// returns an error. Where known says of a stamp that the package is known, only
// its Stamp is set.
func (db *DB) Packages(known func(stamp uint64) bool, see func(*Package) error) error {
	n := 0
	err := db.each(db.path, func(header []byte) error {
		n++
		p := &Package{Stamp: max(maphash.Bytes(seed, header), 1), header: header}
		defer func() { p.header = nil }()
		if !known(p.Stamp) {
			if err := p.parse(header); err != nil {
				return fmt.Errorf("package header %d: %w", n, err)
			}
		}
		return see(p)
	})
	if err != nil {
		return fmt.Errorf("read rpm database %s: %w", db.path, err)
	}
	return nil
}

// magicAt tells whether a file begins with what its form demands.
func magicAt(f *os.File, magic []byte) error {
	buf := make([]byte, len(magic))
	if _, err := f.ReadAt(buf, 0); err != nil {
		return fmt.Errorf("read the beginning: %w", err)
	}
	if !bytes.Equal(buf, magic) {
		return fmt.Errorf("begins with %q, not with %q", buf, magic)
	}
	return nil
}
