package cordon_test

import (
	"strings"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
)

func TestFindingsClean(t *testing.T) {
	good := cordon.Findings{Kind: cordon.Blocked, Series: "a", Sequence: 1, Total: 9, Files: []cordon.Finding{{Path: "/tmp/x", SHA256: strings.Repeat("AB", 32), Count: 3}}}
	clean, err := good.Clean()
	if err != nil || clean.Files[0].SHA256 != strings.Repeat("ab", 32) || clean.Others() != 6 || clean.Total != 9 {
		t.Errorf("%+v, %v", clean, err)
	}
	evil := good
	evil.Total = 0
	evil.Files = append([]cordon.Finding{{Path: "\x1b[2J\n", SHA256: "zz", Owner: "\x00", Reason: strings.Repeat("\u202e", 9999), Count: 1<<64 - 1}}, make([]cordon.Finding, 999)...)
	clean, err = evil.Clean()
	if f := clean.Files[0]; err != nil || f.Path != `\x1b[2J\n` || f.SHA256 != "" || f.Owner != `\x00` || len([]rune(f.Reason)) > cordon.MaxName || len(clean.Files) != cordon.MaxFindings || clean.Total != 1<<53 || clean.Others() != 0 {
		t.Errorf("%d files, total %d, first %+v, %v", len(clean.Files), clean.Total, f, err)
	}
	for name, change := range map[string]func(*cordon.Findings){
		"kind":     func(s *cordon.Findings) { s.Kind = "x" },
		"series":   func(s *cordon.Findings) { s.Series = "" },
		"long":     func(s *cordon.Findings) { s.Series = strings.Repeat("x", 65) },
		"escape":   func(s *cordon.Findings) { s.Series = "\x1b" },
		"sequence": func(s *cordon.Findings) { s.Sequence = 0 },
		"much":     func(s *cordon.Findings) { s.Sequence = 1 << 63 },
		"total":    func(s *cordon.Findings) { s.Total = 1 << 63 },
	} {
		bad := good
		change(&bad)
		if _, err := bad.Clean(); cordon.KindOf(err) != cordon.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServiceFindings(t *testing.T) {
	var store memstore.Store
	m := cordon.Machine{ID: cordon.MachineID(strings.Repeat("ab", 20))}
	if _, err := store.EnrolMachine(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	s := &cordon.Service{Store: &store}
	if got, err := s.Findings(t.Context(), soar, m, cordon.Blocked); err != nil || got.Total != 0 || got.Files == nil {
		t.Errorf("before anything was told: %+v, %v", got, err)
	}
	if err := s.Seen(t.Context(), m.ID, cordon.Findings{Kind: cordon.Blocked, Series: "a", Sequence: 1, Files: []cordon.Finding{{Path: "a\nb", Count: 2}}}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Findings(t.Context(), soar, m, cordon.Blocked); err != nil || got.Total != 2 || got.Files[0].Path != `a\nb` {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.Findings(t.Context(), cordon.Caller{Permissions: []cordon.Permission{cordon.MachineIsolate}}, m, cordon.Blocked); cordon.KindOf(err) != cordon.Forbidden {
		t.Errorf("anybody may read: %v", err)
	}
}
