// Package dpkg reads the package database of Debian and its descendants, as
// dpkg itself keeps it in text files below /var/lib/dpkg.
//
// It owns the reading of status (with the journal in updates/), of
// info/PKG[:ARCH].md5sums and the conffiles in status, and of diversions. It
// says which file content a package brought; whether a file on disk still has
// it is for the caller to see.
//
// What it promises: it only reads. A database that is broken or half written is
// an error that names the file and the line, never a smaller result. A package
// that brought no digests is reported as such ([Package.Sums]).
//
// dpkg keeps MD5 only. That is enough for what it is used for here, telling
// that a file is the one the package brought: making another file with the MD5
// of a given one (a second preimage) takes about 2^123 steps with the best
// published attack. Making two files with one MD5 (a collision) is cheap, so
// whoever builds a package can prepare a twin for a file in it; but that person
// is trusted to write the package's programs anyway. From the moment the file
// was checked, only its SHA-256 counts.
package dpkg

import (
	"cmp"
	"crypto/md5"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/fileid"
)

// Dir is where dpkg keeps its database, below the root directory.
const Dir = "var/lib/dpkg"

// ErrNone says that there is no dpkg database at all.
var ErrNone = errors.New("no dpkg database")

// File is one file that a package brought.
type File struct {
	Path string // absolute, where it lies on disk: diversions are applied
	// MD5 is the content that the package brought. It says nothing for a Script:
	// dpkg keeps no digest of the maintainer scripts in its own database, and they
	// are as trustworthy as the digests that lie beside them.
	MD5      [md5.Size]byte
	Conffile bool // the administrator may have changed it
	Script   bool // a maintainer script, which dpkg starts from its database
}

// Package is one package that has files on disk.
type Package struct {
	Name, Arch string
	// Stamp changes whenever what [DB.Files] yields may have changed. It holds
	// within this process only; 0 means that nothing can be promised.
	Stamp uint64
	// Sums is false for a package that brought no md5sums: of such a package only
	// conffiles and maintainer scripts are known.
	Sums bool

	sums      string
	scripts   []string
	conffiles []conffile
}

// DB is the database as it was when it was opened.
type DB struct {
	root       string
	diversions diversions
	packages   []Package
}

var seed = maphash.MakeSeed()

// Open reads the list of packages below root, / on a real machine. The error
// wraps [ErrNone] where dpkg was never used. now is the wall clock.
func Open(root string, now time.Time) (*DB, error) {
	db := &DB{root: root}
	dir := filepath.Join(root, Dir)
	stanzas, err := readStatus(dir)
	if err != nil {
		return nil, err
	}
	if db.diversions, err = readDiversions(filepath.Join(dir, "diversions")); err != nil {
		return nil, err
	}
	info, err := readInfo(filepath.Join(dir, "info"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(stanzas) == 0 && len(info) == 0 {
		return nil, ErrNone
	}
	last := ""
	for _, s := range stanzas {
		last = max(last, s.name)
		entry := info.take(s)
		if !s.hasFiles() {
			continue
		}
		if info == nil {
			return nil, fmt.Errorf("%s: is missing, although package %q is installed", filepath.Join(dir, "info"), s.name)
		}
		p, err := newPackage(dir, s, entry, db.diversions.stamp, now)
		if err != nil {
			return nil, err
		}
		db.packages = append(db.packages, p)
	}
	// dpkg writes status in the order of the names. Packages that only the info
	// directory knows, and that would come after the last one, were cut off;
	// others are leftovers, which dpkg itself ignores.
	for name, e := range info {
		if e.list && !e.taken && packageOf(name) > last {
			return nil, fmt.Errorf("%s: ends after package %q, but %s lists the files of %q: the file is cut off",
				filepath.Join(dir, "status"), last, filepath.Join(dir, "info", name+".list"), name)
		}
	}
	return db, nil
}

// Packages returns every package that has files on disk, those included that
// dpkg is unpacking right now, in the order of status. The caller does not
// change it.
func (db *DB) Packages() []Package { return db.packages }

// Files yields the files of one package, until see returns an error.
func (db *DB) Files(p *Package, see func(File) error) error {
	if p.Sums {
		f, err := os.Open(p.sums)
		if err != nil {
			return fmt.Errorf("read md5sums: %w", err)
		}
		defer func() { _ = f.Close() }() // only read
		err = parseSums(p.sums, f, func(path string, sum [md5.Size]byte) error {
			return see(File{Path: db.diversions.apply(path, p.Name), MD5: sum})
		})
		if err != nil {
			return err
		}
	}
	for _, c := range p.conffiles {
		if err := see(File{Path: db.diversions.apply(c.path, p.Name), MD5: c.md5, Conffile: true}); err != nil {
			return err
		}
	}
	for _, s := range p.scripts {
		if err := see(File{Path: "/" + Dir + "/info/" + s, Script: true}); err != nil {
			return err
		}
	}
	return nil
}

// infoEntry is what the info directory holds of one package.
type infoEntry struct {
	list, sums, taken bool
	scripts           []string
}

type infoDir map[string]*infoEntry // PKG or PKG:ARCH

var scriptKinds = []string{"config", "postinst", "postrm", "preinst", "prerm"}

func readInfo(dir string) (infoDir, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("read package lists: %w", err)
	}
	defer func() { _ = d.Close() }() // only read
	info := infoDir{}
	for {
		names, err := d.Readdirnames(512)
		for _, name := range names {
			pkg, kind, _ := cutLast(name, '.')
			if kind != "list" && kind != "md5sums" && !slices.Contains(scriptKinds, kind) {
				continue
			}
			e := info[pkg]
			if e == nil {
				e = &infoEntry{}
				info[pkg] = e
			}
			switch kind {
			case "list":
				e.list = true
			case "md5sums":
				e.sums = true
			default:
				e.scripts = append(e.scripts, name)
			}
		}
		if err == io.EOF {
			return info, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read package lists: %w", err)
		}
	}
}

// take finds the package's files. dpkg names them PKG:ARCH for packages that may
// be installed for several architectures at once, and PKG for all others.
func (d infoDir) take(s stanza) namedEntry {
	names := []string{s.name, s.name + ":" + s.arch}
	if s.same {
		slices.Reverse(names)
	}
	for _, name := range names {
		if e := d[name]; e != nil && !e.taken {
			e.taken = true
			return namedEntry{name, *e}
		}
	}
	return namedEntry{}
}

type namedEntry struct {
	name string
	infoEntry
}

func newPackage(dir string, s stanza, e namedEntry, diversions uint64, now time.Time) (Package, error) {
	p := Package{Name: s.name, Arch: s.arch, Sums: e.sums, scripts: e.scripts, conffiles: s.conffiles}
	slices.Sort(p.scripts)
	var h maphash.Hash
	h.SetSeed(seed)
	put := func(v any) { maphash.WriteComparable(&h, v) }
	put(diversions)
	put(s.name)
	put(s.arch)
	for _, c := range s.conffiles {
		put(c)
	}
	for _, name := range p.scripts {
		put(name)
	}
	settled := true
	if p.Sums {
		p.sums = filepath.Join(dir, "info", e.name+".md5sums")
		var st unix.Stat_t
		if err := unix.Stat(p.sums, &st); err != nil {
			return Package{}, &fs.PathError{Op: "read md5sums", Path: p.sums, Err: err}
		}
		id := fileid.FromStat(&st)
		put(id)
		settled = fileid.Settled(id, now)
	}
	if settled {
		p.Stamp = max(h.Sum64(), 1)
	}
	return p, nil
}

// packageOf strips the architecture.
func packageOf(name string) string {
	pkg, _, _ := strings.Cut(name, ":")
	return pkg
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// readStatus reads status and then the journal that dpkg lays over it while it
// runs: files with numbers for names, each with the newer state of one package.
func readStatus(dir string) ([]stanza, error) {
	var all []stanza
	at := map[[2]string]int{}
	read := func(path string, journal bool) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // only read
		return parseStatus(path, journal, f, func(line int, s stanza) error {
			key := [2]string{s.name, s.arch}
			i, twice := at[key]
			switch {
			case !twice:
				at[key] = len(all)
				all = append(all, s)
			case journal:
				all[i] = s
			default:
				return fmt.Errorf("%s:%d: package %q (%s) is listed twice", path, line, s.name, s.arch)
			}
			return nil
		})
	}
	err := read(filepath.Join(dir, "status"), false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("read package status: %w", err)
	}
	journal, err := os.ReadDir(filepath.Join(dir, "updates"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read package status: %w", err)
	}
	for _, e := range journal { // sorted by name, and dpkg's numbers all have four digits
		if strings.Trim(e.Name(), "0123456789") != "" {
			continue
		}
		err := read(filepath.Join(dir, "updates", e.Name()), true)
		// dpkg removes the journal after it has written it into status.
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read package status: %w", err)
		}
	}
	slices.SortStableFunc(all, func(a, b stanza) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.arch, b.arch))
	})
	return all, nil
}
