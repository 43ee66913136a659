package telemetry

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
)

type rig struct {
	*Ledger
	file   string
	now    time.Time
	totals map[cordon.FindingKind]uint64 // the enforcer's, since it was opened
}

func newRig(file string) *rig {
	r := &rig{file: file, now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	r.open()
	return r
}

// open is a start of the agent: the enforcer counts from zero.
func (r *rig) open() {
	r.totals = map[cordon.FindingKind]uint64{}
	r.Ledger = Open(Config{
		File: r.file, Now: func() time.Time { return r.now }, Log: slog.New(slog.DiscardHandler),
		Totals: func() map[cordon.FindingKind]uint64 { return r.totals },
		Owner: func(path string) string {
			if path == "/usr/bin/ls" {
				return "dpkg:coreutils"
			}
			return ""
		},
	})
}

func (r *rig) of(kind cordon.FindingKind) (told cordon.Findings) {
	for _, s := range r.Findings() {
		if s.Kind == kind {
			told = s
		}
	}
	return told
}

// Whatever is refused, in whatever order, dropped from samples or not, and
// however often the agent stops: totals are exact, the bounds hold, the counts of
// files that never had to make room are exact, and a sequence only grows.
func TestTotalsAreExact(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		r := newRig(filepath.Join(dir, fmt.Sprint(runs)))
		exact, total := map[string]uint64{}, uint64(0)
		series, sequence := "", uint64(0)
		many := rapid.Bool().Draw(t, "many")
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"note", "note", "drop", "flush", "restart", "crowd"}).Draw(t, "step") {
			case "note":
				path := "/tmp/" + rapid.SampledFrom([]string{"a", "b", "c\n", "\xff"}).Draw(t, "path")
				n := rapid.Uint64Range(1, 1000).Draw(t, "count")
				r.totals[cordon.Blocked] += n
				r.Note(Seen{Kind: cordon.Blocked, Path: path, Count: n, Digest: sha256.Sum256([]byte(path))})
				exact[cordon.PlainName(path)] += n
				total += n
			case "drop": // the kernel refused more than there were samples
				r.totals[cordon.Blocked] += 7
				total += 7
			case "crowd":
				if !many {
					continue
				}
				for i := range 300 {
					r.totals[cordon.Blocked]++
					r.Note(Seen{Kind: cordon.Blocked, Path: fmt.Sprint("/crowd/", i), Count: 1})
				}
				total += 300
			case "restart":
				if err := r.Flush(); err != nil {
					t.Fatal(err)
				}
				r.open()
			case "flush":
				if err := r.Flush(); err != nil {
					t.Fatal(err)
				}
				told := r.of(cordon.Blocked)
				if told.Series == series && told.Sequence < sequence {
					t.Fatalf("sequence %d after %d", told.Sequence, sequence)
				}
				series, sequence = told.Series, told.Sequence
			}
		}
		if err := r.Flush(); err != nil {
			t.Fatal(err)
		}
		told := r.of(cordon.Blocked)
		sum := told.Others()
		for _, f := range told.Files {
			sum += f.Count
			if want, ok := exact[f.Path]; ok && (f.Count > want || !many && f.Count != want) {
				t.Fatalf("%s: counted %d of %d", f.Path, f.Count, want)
			}
		}
		if told.Total != total || sum != total || len(told.Files) > cordon.MaxFindings {
			t.Fatalf("total %d and %d in %d files, want %d", told.Total, sum, len(told.Files), total)
		}
		if clean, err := told.Clean(); total > 0 && (err != nil || fmt.Sprint(clean) != fmt.Sprint(told)) {
			t.Fatalf("the server changes what is told, %v:\n%v\n%v", err, told, clean)
		}
	})
}

func TestLedger(t *testing.T) {
	r := newRig(filepath.Join(t.TempDir(), "findings.json"))
	digest := cordon.Digest(sha256.Sum256([]byte("x")))
	if !r.Note(Seen{cordon.Blocked, "/usr/bin/ls", digest, "it is not in the trust set", 2}) || r.Note(Seen{cordon.Blocked, "/usr/bin/ls", digest, "because", 3}) {
		t.Error("what is new and what is not")
	}
	r.Note(Seen{cordon.Audited, "/tmp/\x1b]0;x\a", cordon.Digest{}, "", 1})
	if len(r.Findings()) != 0 {
		t.Error("told before it was stored")
	}
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	got := r.of(cordon.Blocked)
	if f := got.Files[0]; got.Sequence != 1 || f.Count != 5 || f.Owner != "dpkg:coreutils" || f.SHA256 != digest.String() || f.Reason != "because" {
		t.Errorf("%+v", got)
	}
	if f := r.of(cordon.Audited).Files[0]; f.Path != `/tmp/\x1b]0;x\a` || f.SHA256 != "" || f.Owner != "" {
		t.Errorf("%+v", f)
	}
	if err := r.Flush(); err != nil || r.of(cordon.Blocked).Sequence != 1 {
		t.Errorf("nothing new is told anew: %v", err)
	}
	// What makes room is the rarest.
	for i := range 2 * cordon.MaxFindings {
		r.Note(Seen{Kind: cordon.Blocked, Path: fmt.Sprint("/once/", i), Count: 1})
	}
	if err := r.Flush(); err != nil || r.of(cordon.Blocked).Files[0].Path != "/usr/bin/ls" {
		t.Errorf("the most frequent had to go: %v, %+v", err, r.of(cordon.Blocked).Files[0])
	}
	running := []cordon.Finding{{Path: "/tmp/x", Count: 1}}
	r.Replace(cordon.Running, running, 1)
	if err := r.Flush(); err != nil || r.of(cordon.Running).Sequence != 1 {
		t.Error("not told", err)
	}
	r.Replace(cordon.Running, running, 1)
	if err := r.Flush(); err != nil || r.of(cordon.Running).Sequence != 1 {
		t.Error("the same is told anew", err)
	}
	if err := os.WriteFile(r.file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.open()
	if len(r.Findings()) != 0 {
		t.Error("read a broken file")
	}
}
