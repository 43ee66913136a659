// Package telemetry keeps count, on a machine, of the files that are not trusted:
// executions that were refused, or would have been.
//
// # What it promises
//
// Memory, disk and what is told are bounded ([cordon.MaxFindings] files of each
// kind); totals are exact all the same, for they come from the enforcer's own
// counters and not from its samples. What was counted survives a restart, but
// for the last seconds before a crash. Names that attackers chose are kept
// escaped ([cordon.PlainName]).
//
// # What it owns
//
// One file, and no goroutine: [Ledger.Run] runs on its caller's.
package telemetry

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/durable"
)

// Config is what a ledger needs. All fields are required.
type Config struct {
	File string // keeps what was counted
	// Totals are the enforcer's exact counts since it was opened, by kind.
	Totals func() map[cordon.FindingKind]uint64
	// Owner names the package that brought a file of this path, "" for none.
	Owner func(path string) string
	Now   func() time.Time
	Log   *slog.Logger
}

// Seen is a sample of executions of one file.
type Seen struct {
	Kind   cordon.FindingKind
	Path   string        // raw
	Digest cordon.Digest // zero: not known
	Reason string
	Count  uint64
}

// Ledger counts. Make one with [Open]. It is safe for concurrent use.
type Ledger struct {
	cfg    Config
	series string

	mu      sync.Mutex // guards what follows
	kinds   map[cordon.FindingKind]*cordon.Findings
	base    map[cordon.FindingKind]uint64 // totals that earlier runs left
	changed map[cordon.FindingKind]bool

	public atomic.Pointer[[]cordon.Findings]
}

// saveEvery is how often what is new is stored and told; a crash forgets as much.
const saveEvery = 5 * time.Second

// Open reads what earlier runs have counted. A file that cannot be read is
// logged, and counting begins anew.
func Open(cfg Config) *Ledger {
	l := &Ledger{cfg: cfg, series: rand.Text(), kinds: map[cordon.FindingKind]*cordon.Findings{}, base: map[cordon.FindingKind]uint64{}, changed: map[cordon.FindingKind]bool{}}
	l.public.Store(new([]cordon.Findings))
	kept, err := load(cfg.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		cfg.Log.Warn("what was refused before is not known any more, counting begins anew", "err", err)
	}
	for _, s := range kept {
		if s, err := s.Clean(); err == nil && s.Kind != cordon.Running {
			s.Series, s.Sequence = l.series, 0
			l.kinds[s.Kind], l.base[s.Kind], l.changed[s.Kind] = &s, s.Total, true
		}
	}
	l.publish()
	return l
}

func load(file string) (kept []cordon.Findings, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return kept, json.Unmarshal(data, &kept)
}

// kind is called with mu held.
func (l *Ledger) kind(k cordon.FindingKind) *cordon.Findings {
	s := l.kinds[k]
	if s == nil {
		s = &cordon.Findings{Kind: k, Series: l.series, Since: l.cfg.Now().UTC(), Files: []cordon.Finding{}}
		l.kinds[k] = s
	}
	return s
}

// Note counts a sample, and reports whether its file is new to the ledger.
func (l *Ledger) Note(seen Seen) (isNew bool) {
	path, digest := cordon.PlainName(seen.Path), ""
	if seen.Digest != (cordon.Digest{}) {
		digest = seen.Digest.String()
	}
	now := l.cfg.Now().UTC()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.kind(seen.Kind)
	l.changed[seen.Kind] = true
	for i := range s.Files {
		if f := &s.Files[i]; f.Path == path && f.SHA256 == digest {
			f.Count += seen.Count
			f.Last, f.Reason = now, cordon.PlainName(seen.Reason)
			return false
		}
	}
	f := cordon.Finding{Path: path, SHA256: digest, Owner: cordon.PlainName(l.cfg.Owner(seen.Path)), Reason: cordon.PlainName(seen.Reason), Count: seen.Count, First: now, Last: now}
	if len(s.Files) < cordon.MaxFindings {
		s.Files = append(s.Files, f)
		return true
	}
	// The rarest makes room, of several the one seen longest ago. Its count stays in the total.
	least := 0
	for i, g := range s.Files {
		if w := s.Files[least]; cmp.Or(cmp.Compare(g.Count, w.Count), g.Last.Compare(w.Last)) < 0 {
			least = i
		}
	}
	s.Files[least] = f
	return true
}

// Replace sets a kind as a whole: what is so now, not what has been counted.
func (l *Ledger) Replace(kind cordon.FindingKind, files []cordon.Finding, total uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.kind(kind)
	same := s.Total == total && slices.EqualFunc(s.Files, files, func(a, b cordon.Finding) bool {
		return a.Path == b.Path && a.SHA256 == b.SHA256 && a.Count == b.Count
	})
	if !same || s.Sequence == 0 {
		now := l.cfg.Now().UTC()
		s.Files, s.Total, s.Since = slices.Clone(files), total, now
		l.changed[kind] = true
	}
}

// Findings returns what there is to tell, as it was last stored. It never waits.
func (l *Ledger) Findings() []cordon.Findings { return *l.public.Load() }

// Run stores and publishes what is new until ctx ends. What comes last is for
// [Ledger.Flush], once nobody can be refused any more.
func (l *Ledger) Run(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := l.Flush(); err != nil {
			l.cfg.Log.ErrorContext(ctx, "what was refused could not be stored", "err", err)
		}
	}
}

// Flush stores and publishes what is new. What could not be stored is published
// all the same.
func (l *Ledger) Flush() error {
	totals := l.cfg.Totals()
	l.mu.Lock()
	defer l.mu.Unlock()
	for kind, n := range totals {
		if n += l.base[kind]; n > 0 && n != l.kind(kind).Total {
			l.kinds[kind].Total = n
			l.changed[kind] = true
		}
	}
	if !slices.Contains([]bool{l.changed[cordon.Blocked], l.changed[cordon.Audited], l.changed[cordon.Running]}, true) {
		return nil
	}
	all := l.publish()
	data, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("encode findings: %w", err)
	}
	return durable.Replace(l.cfg.File, data, 0o600)
}

// publish is called with mu held, or before anybody else has the ledger.
func (l *Ledger) publish() []cordon.Findings {
	var all []cordon.Findings
	for _, kind := range []cordon.FindingKind{cordon.Blocked, cordon.Audited, cordon.Running} {
		s := l.kinds[kind]
		if s == nil {
			continue
		}
		if l.changed[kind] {
			s.Sequence++
			s.At = l.cfg.Now().UTC()
			l.changed[kind] = false
		}
		out := *s
		out.Files = slices.Clone(s.Files)
		slices.SortStableFunc(out.Files, func(a, b cordon.Finding) int { return cmp.Compare(b.Count, a.Count) })
		sum := uint64(0)
		for _, f := range out.Files {
			sum += f.Count
		}
		out.Total = max(out.Total, sum) // samples that came after the counters were read
		all = append(all, out)
	}
	l.public.Store(&all)
	return all
}
