package trust

import (
	"log/slog"
	"time"
)

// Summary says what a build found.
type Summary struct {
	Sources []Source // in the order in which they count as origin
	Entries int      // contents in the set
	Known   int      // files that are trusted without being read again
	// Young counts trusted files that changed too shortly before the build to be
	// known by their identity (fileid.Settle). They run, at the price of being
	// read; a build a little later knows them.
	Young       int
	Hashed      int // files that had to be read
	HashedBytes int64
	Duration    time.Duration

	Mismatched   List // programs that are not what their package brought, nor trusted otherwise
	Unreadable   List // programs that could not be read
	Unstable     List // programs that were replaced while they were hashed, twice
	Unverifiable List // packages of whose files nothing is known
	Rejected     List // places of rules that others than root could change
	Withheld     List // programs that the gate did not let in
}

// Source is what came from one source of trust.
type Source struct {
	Name     string // cordon, dpkg, rpm, rule
	Packages int
	Programs int // trusted files, or digests of rules
}

// List counts findings exactly and keeps the first [ListMax] of them.
type List struct {
	N     int
	First []Finding
}

// Finding is a path or a package, and what is the matter with it.
type Finding struct{ Name, Why string }

// ListMax is how many findings a [List] keeps.
const ListMax = 32

func (l *List) add(name, why string) {
	l.N++
	if len(l.First) < ListMax {
		l.First = append(l.First, Finding{name, why})
	}
}

// source returns the source of that name, and adds it when it is new.
func (s *Summary) source(name string) *Source {
	for i := range s.Sources {
		if s.Sources[i].Name == name {
			return &s.Sources[i]
		}
	}
	s.Sources = append(s.Sources, Source{Name: name})
	return &s.Sources[len(s.Sources)-1]
}

// LogValue is the summary in one log line; what the lists hold is left out.
func (s Summary) LogValue() slog.Value {
	attrs := []slog.Attr{
		slog.Int("entries", s.Entries), slog.Int("known", s.Known), slog.Int("young", s.Young),
		slog.Int("hashed", s.Hashed), slog.Int64("hashedBytes", s.HashedBytes), slog.Duration("duration", s.Duration),
		slog.Int("mismatched", s.Mismatched.N), slog.Int("unreadable", s.Unreadable.N), slog.Int("unstable", s.Unstable.N),
		slog.Int("unverifiable", s.Unverifiable.N), slog.Int("rejected", s.Rejected.N),
		slog.Int("withheld", s.Withheld.N),
	}
	for _, src := range s.Sources {
		attrs = append(attrs, slog.Group(src.Name, "packages", src.Packages, "programs", src.Programs))
	}
	return slog.GroupValue(attrs...)
}
