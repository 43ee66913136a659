// Package trust builds the trust set of a Linux machine: from the databases of
// its package managers, from the administrator's rules file, and from Cordon
// itself.
//
// # What it owns
//
// The decision which files are programs (one function, classify), the check of
// each against what its package brought, their SHA-256, and a cache of all that
// on disk. The databases themselves are read by the packages dpkg and rpm below
// it, the rules by rules; survival judges the result.
//
// # What it promises
//
// A file is in the set only if its content is what the package database says,
// or a rule names it, or it is Cordon's own. A database or rules file that is
// broken or half written is an error, not a smaller set; so is a set that has
// shrunk to less than half ([ErrShrunk]) or has no source at all ([ErrNoSource]).
// After an error the caller keeps the set it has; the next build starts from there.
//
// A file that changes while it is read is never taken for what it was before. A
// file is known by its identity only when that identity can no longer be shared
// with another content (fileid.Settle). One hole remains, which no stat can
// close: whoever may write a trusted file, that is root, may map it shared and
// change the mapped pages without moving the change time until the kernel
// writes them back.
//
// The cache is written beside its place, synced and renamed over it; losing it
// costs time, nothing else.
//
// # How it is used
//
//	b := &trust.Builder{RulesFile: "/etc/cordon/trust.rules", CacheFile: dir + "/trust.cache", Self: []string{exe}}
//	set := b.Last() // what to enforce at once, as the last run left it
//	err := b.Follow(ctx, func(set *cordon.TrustSet, s trust.Summary, err error) { … })
//
// A [Builder] may be used by several goroutines; its builds run one after the
// other, each with two more goroutines that end before it returns.
package trust

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/fileid"
	"github.com/cordon-project/cordon/internal/trust/rpm"
	"github.com/cordon-project/cordon/internal/trust/rules"
)

var (
	// ErrNoSource says that there is nothing on the machine that trust could come from.
	ErrNoSource = errors.New("no source of trust")
	// ErrShrunk says that the set has less than half as many entries as the one before.
	ErrShrunk = errors.New("the trust set has shrunk to less than half")
)

// Builder builds trust sets, each one with what it remembers of the one before.
// Its fields do not change after first use.
type Builder struct {
	// Root is the directory that stands for /; empty means / itself.
	Root string
	// RulesFile is the administrator's rules file, empty for none; a file that
	// does not exist has no rules. Unlike all other paths it is not below Root.
	RulesFile string
	// CacheFile is where the results are kept over a restart; empty means nowhere.
	// Its directory exists and belongs to root. It is not below Root either.
	CacheFile string
	// Self names Cordon's own programs, below Root. All of them exist.
	Self []string
	// ProgramText says that what interpreters take for program text by its name is
	// in the set, too: several times as many files as there are programs.
	ProgramText bool
	// Gate is asked at every build whether the package databases and the rules are to
	// be taken at their word: it returns nil if they are, as on a machine that is not
	// restricted, else what says of a content that it may come in addition to those
	// of the set before. Root can write into both what he likes. nil: they are.
	Gate func() func(cordon.Digest) bool
	// Signs is asked, where there is a gate, whether the signature of an rpm package
	// in the database is good: what it signs comes in too. nil: none is.
	Signs func(rpm.Signed) bool
	// GateFile is a file that changes whenever the gate may answer differently; the
	// set is then built anew. Empty for none. It is not below Root.
	GateFile string
	// Running is asked at every build for contents that are still started although no
	// package may have them any more: those that were in the set before stay, also after
	// a restart. nil: there are none.
	Running func() []cordon.Digest
	Log     *slog.Logger     // nil means slog.Default()
	Now     func() time.Time // the wall clock; nil means time.Now

	mu      sync.Mutex
	packs   map[key]*pack          // those of the last build that may be kept; nil before the first
	order   []*pack                // all of the last build
	last    *cordon.TrustSet       // nil: there was none
	unasked int                    // how many of its entries may be program text that is not asked for any more
	texts   []string               // program text in it, below Root
	begins  map[cordon.FileID]bool // whether files begin as scripts do
	written cordon.Digest          // checksum of the cache as it is on disk

	pace pace
}

func (b *Builder) root() string {
	if b.Root == "" {
		return "/"
	}
	return b.Root
}

func (b *Builder) log() *slog.Logger {
	if b.Log == nil {
		return slog.Default()
	}
	return b.Log
}

func (b *Builder) now() time.Time {
	if b.Now == nil {
		return time.Now()
	}
	return b.Now()
}

// Last returns the trust set that the last successful build left in the cache
// file, perhaps in an earlier life of this process. It reads nothing but that
// file, so it is what can be enforced at once after a start, also while the
// package database is broken. It returns nil if there is no usable cache.
func (b *Builder) Last() *cordon.TrustSet {
	c := b.readCache()
	if c == nil || len(c.entries) == 0 {
		return nil
	}
	return cordon.NewTrustSet(c.entries, c.known())
}

// Owner returns the origin of the package that brought a program at this path,
// whatever its content is now; "" if there is none, or while a set is being built.
func (b *Builder) Owner(path string) string {
	if !b.mu.TryLock() {
		return ""
	}
	defer b.mu.Unlock()
	// Where /bin is a link to /usr/bin, packages may still name the former.
	short, merged := strings.CutPrefix(path, "/usr")
	for _, p := range b.order {
		if p.source != sourceDpkg && p.source != sourceRpm {
			continue
		}
		for i := range p.files {
			if f := p.files[i].path; f == path || merged && f == short {
				return p.origin
			}
		}
	}
	return ""
}

// Texts returns the paths of the trusted files of the last successful build that
// interpreters may be told to run, perhaps in an earlier life of this process:
// those that are program text by name, or begin as scripts do, in lexical order.
// Without ProgramText there are none.
func (b *Builder) Texts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.packs == nil && b.ProgramText {
		if c := b.readCache(); c != nil {
			return under(b.root(), c.texts)
		}
	}
	return under(b.root(), b.texts)
}

// under returns the paths as they are, not as they are below root.
func under(root string, texts []string) []string {
	paths := make([]string, len(texts))
	for i, t := range texts {
		paths[i] = filepath.Join(root, t)
	}
	return paths
}

// textsOf lists the program text among the files that set trusts. It reads the
// first bytes of those that no earlier build has looked at.
func (b *Builder) textsOf(packs []*pack, set *cordon.TrustSet) []string {
	var texts []string
	begins := make(map[cordon.FileID]bool, len(b.begins))
	for _, p := range packs {
		for i := range p.files {
			f := &p.files[i]
			if f.state != hashed || !set.Contains(f.fact.sha256) {
				continue
			}
			text := cordon.IsProgramText(f.path)
			if !text {
				known := false
				if text, known = b.begins[f.fact.id]; !known {
					text = fileid.Magic(filepath.Join(b.root(), f.path), "#!")
				}
				begins[f.fact.id] = text
			}
			if text {
				texts = append(texts, f.path)
			}
		}
	}
	b.begins = begins
	slices.Sort(texts)
	return slices.Compact(texts)
}

// Build builds the set. The first build of a Builder looks at every file of
// every package, and hashes those programs that the cache does not know; later
// ones read only the packages that have changed, and look at known programs
// only. A file of an unchanged package that was no program, and was made one by
// others, with chmod(1) for instance, is therefore trusted when its package
// changes or after a restart.
//
// Errors are of type [*cordon.Error] and may wrap [ErrNoSource] or [ErrShrunk];
// only a cancelled context is returned as it is.
//
// The caller waits, so it is as fast as can be, and so is a build of Follow that
// is going on; see [Builder.Hurry].
func (b *Builder) Build(ctx context.Context) (*cordon.TrustSet, Summary, error) {
	defer b.Hurry()()
	return b.next(ctx)
}

// Hurry says that somebody waits for a set, until done is called. The builds of
// Follow otherwise take half of one processor at most.
func (b *Builder) Hurry() (done func()) { return b.pace.wait() }

// AtLeisure is for the work to which a set leads, to take no more than its part of a
// processor either: until end the caller's goroutine calls pause after every small piece.
func (b *Builder) AtLeisure(ctx context.Context) (pause, end func()) { return b.pace.worker(ctx) }

func (b *Builder) next(ctx context.Context) (*cordon.TrustSet, Summary, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var sum Summary
	started := b.now()
	set, err := b.build(ctx, &sum)
	sum.Duration = b.now().Sub(started)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, sum, err
	}
	return set, sum, nil
}

func (b *Builder) build(ctx context.Context, sum *Summary) (*cordon.TrustSet, error) {
	first := b.packs == nil
	m := &measurer{root: b.root(), text: b.ProgramText, now: b.now, pace: b.AtLeisure, facts: map[cordon.FileID]fact{}}
	if first {
		if c := b.readCache(); c != nil {
			b.last, b.written = cordon.NewTrustSet(c.entries, nil), c.sum
			b.unasked = 0
			for _, t := range c.texts {
				if !b.ProgramText && cordon.IsProgramText(t) {
					b.unasked++
				}
			}
			for _, f := range c.facts {
				m.facts[f.id] = f
			}
		}
	}
	gate := b.gate()
	col := &collector{root: b.root(), text: b.ProgramText, now: b.now(), old: b.packs, packs: map[key]*pack{}, kept: map[*pack]bool{}, sum: sum}
	if gate != nil {
		col.signs = b.Signs
	}
	ruleEntries, err := b.collect(ctx, col)
	if err != nil {
		return nil, err
	}
	for _, p := range b.order {
		if !col.kept[p] {
			m.remember(p)
		}
	}
	if err := m.measure(ctx, col.order, sum); err != nil {
		return nil, fmt.Errorf("hash programs: %w", err)
	}
	if gate == nil {
		gate = b.gate() // the machine was restricted meanwhile, and what was read since may have come since
	}
	entries, known := compile(col.order, gate, sum)
	entries = slices.Concat(entries, b.ruled(ruleEntries, gate, sum), b.running())
	set := cordon.NewTrustSet(entries, known)
	sum.Entries, sum.Known = set.Len(), len(known)
	reportMismatches(col.order, set, sum)
	if err := b.judge(set.Len()); err != nil {
		return nil, err
	}
	b.packs, b.order, b.last, b.unasked = col.packs, col.order, set, 0
	if b.ProgramText {
		b.texts = b.textsOf(col.order, set)
	}
	b.writeCache(cache{entries: entries, texts: b.texts, facts: factsOf(col.order)})
	if first {
		// The first build leaves several times of what is kept behind as garbage, and
		// the process may not allocate enough afterwards to ever collect it.
		debug.FreeOSMemory()
	}
	return set, nil
}

// ruled returns what rules name, or named: where there is a gate it is as it was
// before, as whoever is root can change the rules, by mistake as well. now are the
// contents that they name by digest.
func (b *Builder) ruled(now []cordon.TrustEntry, gate func(cordon.Digest) bool, sum *Summary) (entries []cordon.TrustEntry) {
	if gate == nil {
		return now
	}
	for e := range b.last.Entries() {
		if strings.HasPrefix(e.Origin, sourceRules+":") {
			entries = append(entries, e)
		}
	}
	for _, e := range now {
		if !gate(e.Digest) {
			sum.Withheld.add("sha256 "+e.Digest.String(), e.Origin)
		}
	}
	return entries
}

// running returns what the last set has of that which is still started.
func (b *Builder) running() (entries []cordon.TrustEntry) {
	if b.Running == nil || b.last == nil {
		return nil
	}
	contents := b.Running()
	for e := range b.last.Entries() {
		if slices.Contains(contents, e.Digest) {
			entries = append(entries, e)
		}
	}
	return entries
}

// before is how many entries the last set has that are asked for.
func (b *Builder) before() int {
	if b.last == nil {
		return 0
	}
	return b.last.Len() - b.unasked
}

// gate returns what decides on contents from package databases and rules, nil if
// all of them count. Where there is no set before, there is nothing to hold on to:
// they are all that is known of the machine.
func (b *Builder) gate() func(cordon.Digest) bool {
	if b.Gate == nil || b.last == nil {
		return nil
	}
	admitted := b.Gate()
	if admitted == nil {
		return nil
	}
	last := b.last
	return func(d cordon.Digest) bool { return last.Contains(d) || admitted(d) }
}

// judge refuses a set that would stop the machine.
func (b *Builder) judge(entries int) error {
	if entries == 0 {
		return &cordon.Error{Kind: cordon.Unavailable, Err: ErrNoSource,
			Message: "The trust set is empty: no program of any package is as the package database says, and no rule names one. " +
				"Repair the package database, or write a rules file."}
	}
	if entries*2 < b.before() {
		accept := "restart the agent"
		if b.CacheFile != "" {
			accept = "delete " + b.CacheFile + " and restart the agent"
		}
		e := cordon.Errorf(cordon.Unavailable, "", "The new trust set has %d entries where the one before had %d, so it was not loaded. "+
			"If that many programs were really removed, %s; otherwise repair the package database.", entries, b.before(), accept)
		e.Err = ErrShrunk
		return e
	}
	return nil
}

// collect gathers all sources in the order in which they are named as the origin
// of a content: Cordon, dpkg, rpm, rules.
func (b *Builder) collect(ctx context.Context, c *collector) ([]cordon.TrustEntry, error) {
	c.addSelf(b.Self)
	sources, err := c.addPackages(ctx)
	if err != nil {
		return nil, err
	}
	var list []rules.Rule
	if b.RulesFile != "" {
		if list, err = loadRules(b.RulesFile); err != nil {
			return nil, err
		}
	}
	if sources == 0 && len(list) == 0 {
		return nil, &cordon.Error{Kind: cordon.Unavailable, Err: ErrNoSource, Message: fmt.Sprintf(
			"There is neither a dpkg nor an rpm database below %s, and no rules file. "+
				"Write a rules file with a line \"path /usr\", or one for each directory that holds programs.", b.root())}
	}
	entries, err := c.addRules(ctx, b.RulesFile, list)
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// compile says which of the measured files are trusted. A gate, if there is one,
// decides on all of them.
func compile(packs []*pack, gate func(cordon.Digest) bool, sum *Summary) (entries []cordon.TrustEntry, known []cordon.KnownFile) {
	roles := rolesOf(packs)
	for _, p := range packs {
		for i := range p.files {
			f := &p.files[i]
			if f.state != hashed || !f.matches() {
				continue
			}
			if gate != nil && !gate(f.fact.sha256) && !p.vouched[f.fact.sha256] {
				continue
			}
			entries = append(entries, cordon.TrustEntry{Digest: f.fact.sha256, Size: f.fact.id.Size, Origin: p.origin, Role: roles[f.fact.sha256]})
			sum.source(p.source).Programs++
			if f.young {
				sum.Young++
				continue
			}
			known = append(known, cordon.KnownFile{ID: f.fact.id, Digest: f.fact.sha256})
		}
	}
	return entries, known
}

// rolesOf returns the roles of contents, by any name that one has somewhere.
func rolesOf(packs []*pack) map[cordon.Digest]cordon.Role {
	roles := map[cordon.Digest]cordon.Role{}
	for _, p := range packs {
		for i := range p.files {
			f := &p.files[i]
			if f.state != hashed || !f.matches() {
				continue
			}
			if role := cordon.RoleOf(filepath.Base(f.path)); role > roles[f.fact.sha256] {
				roles[f.fact.sha256] = role
			}
		}
	}
	return roles
}

// reportMismatches lists the programs that are not what their package brought,
// and those that the gate did not let in.
// One whose content is trusted for another reason is none of them: packages take
// files over from each other, and their digests stay behind.
func reportMismatches(packs []*pack, set *cordon.TrustSet, sum *Summary) {
	for _, p := range packs {
		for i := range p.files {
			f := &p.files[i]
			if f.state != hashed || set.Contains(f.fact.sha256) {
				continue
			}
			if f.matches() {
				sum.Withheld.add(f.path, p.origin) // only the gate can have kept it out
				continue
			}
			why := "its content is not the package's"
			if f.want.config {
				why = "a configuration file that was edited"
			}
			sum.Mismatched.add(f.path, p.origin+": "+why)
		}
	}
}

// factsOf lists what may be remembered of the files.
func factsOf(packs []*pack) []fact {
	var facts []fact
	for _, p := range packs {
		for i := range p.files {
			if f := &p.files[i]; f.state == hashed && !f.young {
				facts = append(facts, f.fact)
			}
		}
	}
	slices.SortFunc(facts, func(a, b fact) int { return compareID(a.id, b.id) })
	return slices.CompactFunc(facts, func(a, b fact) bool { return a.id == b.id })
}
