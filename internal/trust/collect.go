package trust

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/trust/dpkg"
	"github.com/cordon-project/cordon/internal/trust/rpm"
	"github.com/cordon-project/cordon/internal/trust/rules"
)

// The names of the sources, as they begin an origin.
const (
	sourceSelf  = "cordon"
	sourceDpkg  = "dpkg"
	sourceRpm   = "rpm"
	sourceRules = "rule"
)

// key names a state of a package: another one means that it has changed.
type key struct {
	source string
	stamp  uint64
}

// pack is what a build remembers of one package: its programs. Both the number
// of packages and that of programs are in the thousands, so this is what the
// memory of an agent consists of.
type pack struct {
	source string
	origin string
	note   string // why nothing can be known of the package, "" if all is well
	// vouched are contents that an rpm package's signature covers, if it was looked
	// at under a gate.
	vouched map[cordon.Digest]bool
	files   []file
}

// file is one program, or may be one when it comes back.
type file struct {
	path  string // below Root
	want  want
	fact  fact // if hashed
	state state
	young bool // if hashed: as in fileid.Sum
}

type state uint8

const (
	unread state = iota
	hashed
	absent // not there, or no program any more
	failed
)

// want is what a file's content should be.
type want struct {
	kind   digestKind
	config bool
	size   int64 // in bytes, -1 if the package database does not say
	sum    [32]byte
}

type digestKind uint8

const (
	anything digestKind = iota
	byMD5
	bySHA256
)

// matches reports whether the file is what it should be.
func (f *file) matches() bool {
	if f.want.size >= 0 && f.want.size != f.fact.id.Size {
		return false
	}
	switch f.want.kind {
	case byMD5:
		return f.fact.hasMD5 && f.fact.md5 == [md5.Size]byte(f.want.sum[:md5.Size])
	case bySHA256:
		return f.fact.sha256 == f.want.sum
	}
	return true
}

// collector gathers what there is to measure.
type collector struct {
	root  string
	text  bool // program text is code, too
	now   time.Time
	old   map[key]*pack
	packs map[key]*pack
	kept  map[*pack]bool
	order []*pack
	sum   *Summary
	signs func(rpm.Signed) bool // nil: no signature is asked for
}

// keep takes a package over from the build before, if it has not changed.
func (c *collector) keep(k key) bool {
	p := c.old[k]
	if p == nil || k.stamp == 0 {
		return false
	}
	c.kept[p] = true
	c.add(k, p)
	return true
}

func (c *collector) add(k key, p *pack) {
	if k.stamp != 0 {
		c.packs[k] = p
	}
	c.order = append(c.order, p)
	c.sum.source(p.source).Packages++
	if p.note != "" {
		c.sum.Unverifiable.add(p.origin, p.note)
	}
}

// consider adds a file to a package if it is a program, or is missing and could
// be one when it comes back.
func (c *collector) consider(p *pack, path string, w want) {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(c.root, path), &st); err != nil {
		if !portable(path) {
			p.files = append(p.files, file{path: path, want: w})
		}
		return
	}
	if isCode(c.root, path, &st, c.text) {
		p.files = append(p.files, file{path: path, want: w})
	}
}

func (c *collector) addSelf(paths []string) {
	if len(paths) == 0 {
		return
	}
	c.sum.source(sourceSelf)
	p := &pack{source: sourceSelf, origin: sourceSelf}
	for _, path := range paths {
		p.files = append(p.files, file{path: path, want: want{size: -1}})
	}
	c.order = append(c.order, p)
}

// addPackages adds the packages of every database there is, and says how many
// databases that were.
func (c *collector) addPackages(ctx context.Context) (sources int, err error) {
	for _, s := range []struct {
		name string
		add  func(context.Context) error
		none error
	}{{"dpkg", c.addDpkg, dpkg.ErrNone}, {"rpm", c.addRpm, rpm.ErrNone}} {
		switch err := s.add(ctx); {
		case err == nil:
			sources++
		case errors.Is(err, s.none):
		case ctx.Err() != nil:
			return 0, err
		default:
			return 0, &cordon.Error{Kind: cordon.Unavailable, Err: err, Message: fmt.Sprintf(
				"The %s database could not be read, so the trust set stays as it was. "+
					"It is read again when it changes; if no package is being installed, repair it", s.name)}
		}
	}
	return sources, nil
}

func (c *collector) addDpkg(ctx context.Context) error {
	db, err := dpkg.Open(c.root, c.now)
	if err != nil {
		return err
	}
	c.sum.source(sourceDpkg)
	packages := db.Packages()
	for i := range packages {
		if err := ctx.Err(); err != nil {
			return err
		}
		pkg := &packages[i]
		k := key{sourceDpkg, pkg.Stamp}
		if c.keep(k) {
			continue
		}
		p := &pack{source: sourceDpkg, origin: "dpkg:" + pkg.Name}
		if !pkg.Sums {
			p.note = "the package brought no md5sums"
		}
		err := db.Files(pkg, func(f dpkg.File) error {
			w := want{kind: byMD5, size: -1, config: f.Conffile}
			copy(w.sum[:], f.MD5[:])
			if f.Script {
				w = want{size: -1}
			}
			c.consider(p, f.Path, w)
			return nil
		})
		if err != nil {
			return err
		}
		c.add(k, p)
	}
	return nil
}

func (c *collector) addRpm(ctx context.Context) error {
	db, err := rpm.Open(c.root)
	if err != nil {
		return err
	}
	c.sum.source(sourceRpm)
	known := func(stamp uint64) bool { return c.old[key{sourceRpm, stamp}] != nil }
	return db.Packages(known, func(pkg *rpm.Package) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		k := key{sourceRpm, pkg.Stamp}
		if c.keep(k) {
			return nil
		}
		p := &pack{source: sourceRpm, origin: "rpm:" + pkg.Name}
		w := want{kind: byMD5}
		switch {
		case !pkg.Known():
			p.note = fmt.Sprintf("the package's digests are of an algorithm (number %d) that is not checked here", pkg.Algo)
		case pkg.Algo == rpm.SHA256:
			w.kind = bySHA256
		}
		for _, f := range pkg.Files {
			w.size, w.config = f.Size, f.Config
			copy(w.sum[:], f.Digest)
			c.consider(p, f.Path, w)
		}
		if c.signs != nil {
			p.vouched = map[cordon.Digest]bool{}
			for _, f := range pkg.Vouched(c.signs) {
				p.vouched[cordon.Digest(f.Digest)] = true
			}
		}
		c.add(k, p)
		return nil
	})
}

func loadRules(path string) ([]rules.Rule, error) {
	list, err := rules.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return list, err
}

// addRules adds the programs at the paths of rules, and returns the contents
// that rules name by digest.
func (c *collector) addRules(ctx context.Context, name string, list []rules.Rule) ([]cordon.TrustEntry, error) {
	var entries []cordon.TrustEntry
	for _, r := range list {
		origin := fmt.Sprintf("%s:%s:%d", sourceRules, filepath.Base(name), r.Line)
		if r.Path == "" {
			entries = append(entries, cordon.TrustEntry{Digest: r.Digest, Size: -1, Origin: origin})
			c.sum.source(sourceRules).Programs++
			continue
		}
		p := &pack{source: sourceRules, origin: origin}
		err := r.Walk(c.root, func(path string, st *unix.Stat_t) error {
			if isCode(c.root, path, st, c.text) {
				p.files = append(p.files, file{path: path, want: want{size: -1}})
			}
			return ctx.Err()
		}, func(path, why string) {
			c.sum.Rejected.add(path, fmt.Sprintf("%s, so %s does not cover it", why, origin))
		})
		if err != nil {
			return nil, err
		}
		c.order = append(c.order, p)
	}
	return entries, nil
}
