package cordon

import (
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// FindingKind says what a machine tells of files that are not trusted.
type FindingKind string

// The kinds of finding.
const (
	Blocked FindingKind = "blocked" // executions that were refused
	Audited FindingKind = "audited" // executions that would have been refused (mode audit)
	Running FindingKind = "running" // processes that run a file which would be refused now
)

// MaxFindings is how many files one kind holds for a machine.
const MaxFindings = 256

// Findings is what a machine tells of one kind: the whole of it each time, so
// that it may be told again, or not at all, without harm. It is not signed: it
// helps people to decide and proves nothing.
type Findings struct {
	Kind FindingKind `json:"kind"`
	// Series and Sequence order what one start of the agent tells: of one series
	// the highest sequence counts; another series replaces it.
	Series   string    `json:"series"`
	Sequence uint64    `json:"sequence"`
	Since    time.Time `json:"since"` // counted from then on, by the machine's clock like all times here
	At       time.Time `json:"at"`
	// Total is exact for everything since then. It counts what is in no file's
	// Count too: files that had to make room, and what nobody could attribute.
	Total uint64    `json:"total"`
	Files []Finding `json:"files"` // most frequent first
}

// Finding is one file that is not trusted.
type Finding struct {
	Path   string    `json:"path"`             // as [PlainName]; chosen by whoever made the file
	SHA256 string    `json:"sha256,omitempty"` // hex; empty: not known
	Owner  string    `json:"owner,omitempty"`  // the package that brought a file of that name (dpkg:coreutils); empty: none
	Reason string    `json:"reason,omitempty"` // why it is not trusted
	Count  uint64    `json:"count"`            // executions; of kind running: processes
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// Others is the part of the total that is in no file's count.
func (s Findings) Others() uint64 {
	n := s.Total
	for _, f := range s.Files {
		n -= min(n, f.Count)
	}
	return n
}

// Clean returns what may be kept of what a machine told: bounded, without
// anything that could move a cursor or break a line, and with counts that fit
// together. It is an error of kind Invalid if nothing is to be made of it.
func (s Findings) Clean() (Findings, error) {
	if s.Kind != Blocked && s.Kind != Audited && s.Kind != Running {
		return s, Errorf(Invalid, CodeInvalidInput, "Findings of the kind %q are not known", s.Kind)
	}
	if s.Series == "" || len(s.Series) > 64 || s.Series != Plain(s.Series) || s.Sequence == 0 || s.Sequence > 1<<53 || s.Total > 1<<53 {
		return s, Errorf(Invalid, CodeInvalidInput, "Findings without a series, a sequence and a possible total cannot be kept")
	}
	s.Files = slices.Clone(s.Files[:min(len(s.Files), MaxFindings)])
	sum := uint64(0)
	for i := range s.Files {
		f := &s.Files[i]
		f.Path, f.Owner, f.Reason = PlainName(f.Path), PlainName(f.Owner), PlainName(f.Reason)
		if d, err := hex.DecodeString(f.SHA256); err != nil || len(d) != len(Digest{}) {
			f.SHA256 = ""
		}
		f.SHA256 = strings.ToLower(f.SHA256)
		f.Count = min(f.Count, 1<<53-sum)
		sum += f.Count
	}
	s.Total = max(s.Total, sum)
	if s.Files == nil {
		s.Files = []Finding{}
	}
	return s, nil
}

// Newer reports whether s replaces what was told before.
func (s Findings) Newer(before Findings) bool {
	return s.Series != before.Series || s.Sequence > before.Sequence
}

// Preview is what a restriction would hit: before anybody presses the button.
type Preview struct {
	Running Findings `json:"running"` // what runs now
	Audited Findings `json:"audited"` // what was started in mode audit
}
