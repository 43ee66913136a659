package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cordon-project/cordon/internal/testkit/vm"
)

const limitsPage = "../../docs/limits.md"

func readLimits(t *testing.T) []Limit {
	t.Helper()
	page, err := os.ReadFile(limitsPage)
	if err != nil {
		t.Fatal(err)
	}
	limits, err := parseLimits(string(page))
	if err != nil {
		t.Fatal(err)
	}
	return limits
}

// The whole suite, a boot for each column. make bypass has those that are not here.
func TestColumns(t *testing.T) {
	limits := readLimits(t)
	for _, col := range []Column{{bpf, "6.1"}, {bpf, "6.12"}, {notify, "6.12"}} {
		t.Run(col.String(), func(t *testing.T) {
			vm.Require(t)
			deadline, ok := t.Deadline()
			if !ok {
				deadline = time.Now().Add(10 * time.Minute)
			}
			// Before the testing package panics, to say what came of the cases so far.
			ctx, cancel := context.WithDeadline(t.Context(), deadline.Add(-time.Until(deadline)/20))
			defer cancel()
			var table *Table
			for {
				table = newTable([]Column{col})
				err := try(ctx, col, nil, func(r Result) { table.add(col, r) })
				if errors.Is(err, vm.ErrEmulator) && ctx.Err() == nil {
					t.Logf("%v\ntrying once more", err)
					continue
				}
				if err != nil {
					t.Error(err)
				}
				break
			}
			var out strings.Builder
			if err := table.print(&out); err != nil {
				t.Fatal(err)
			}
			t.Log("\n" + out.String())
			for _, p := range table.problems(limits) {
				t.Error(p)
			}
		})
	}
}

func TestCases(t *testing.T) {
	seen := map[string]bool{}
	id := regexp.MustCompile(`^B[0-9]{2}$`)
	for _, c := range cases {
		if !id.MatchString(c.ID) || c.Name == "" || strings.Contains(c.Name, "|") || seen[c.Name] || c.Attempt == nil {
			t.Errorf("%s: an ID, a name of its own without a bar, and an attempt are needed", c)
		}
		if c.Strict && c.Attacks {
			t.Errorf("%s: it would never be tried", c)
		}
		seen[c.Name] = true
	}
}

// The page says what is open, and nothing else; whatever it calls mitigated names a test that exists.
func TestLimitsPage(t *testing.T) {
	tests := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(b), -1) {
			tests[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`Test\w+`)
	for _, l := range readLimits(t) {
		if !slices.ContainsFunc(cases, func(c Case) bool { return c.String() == l.Case }) {
			t.Errorf("%s: there is no such case", l.Case)
		}
		for _, m := range l.Mechanisms {
			if m != bpf && m != notify {
				t.Errorf("%s: there is no mechanism %q", l.Case, m)
			}
		}
		switch {
		case l.Reason == "":
			t.Errorf("%s: no reason", l.Case)
		case l.State == "mitigated" && !slices.ContainsFunc(named.FindAllString(l.Reason, -1), func(n string) bool { return tests[n] }):
			t.Errorf("%s: mitigated, but no test that exists is named", l.Case)
		case l.State != "open" && l.State != "mitigated":
			t.Errorf("%s: the state is %q, neither open nor mitigated", l.Case, l.State)
		}
	}
	page, err := os.ReadFile(limitsPage)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(page), "\n") {
		if strings.Contains(line, "mitigated") && !slices.ContainsFunc(named.FindAllString(line, -1), func(n string) bool { return tests[n] }) {
			t.Errorf("it says mitigated and names no test that exists: %s", line)
		}
	}
}

func TestParseLimits(t *testing.T) {
	const page = "# L\n\n## Other\n\n| a | b |\n\n## What still runs\n\nText.\n\n| case | enforcer | state | reason |\n|---|---|---|---|\n| B01 x | bpf, fanotify | open | why |\n\n## Next\n\n| B02 y | bpf | open | no |\n"
	got, err := parseLimits(page)
	if err != nil || len(got) != 1 || got[0].Case != "B01 x" || !slices.Equal(got[0].Mechanisms, []string{"bpf", "fanotify"}) || got[0].State != "open" || got[0].Reason != "why" {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"# L\n", "\n## What still runs\n\n| a | b |\n"} {
		if got, err := parseLimits(bad); err == nil {
			t.Errorf("%q was taken for %+v", bad, got)
		}
	}
}

func TestJudge(t *testing.T) {
	const eperm, ebusy, enoent = syscall.EPERM, syscall.ETXTBSY, syscall.ENOENT
	for _, c := range []struct {
		what     string
		c        Case
		enforced bool
		o        Observation
		want     string
	}{
		{"control that works", Case{}, false, Observation{Marker: true}, Runs},
		{"control without marker", Case{}, false, Observation{}, Broken},
		{"control with an error", Case{}, false, Observation{Marker: true, Err: "x"}, Broken},
		{"refused", Case{}, true, Observation{Err: "x", Errno: eperm, Refusals: 1}, Refused},
		{"EACCES is as good", Case{}, true, Observation{Err: "x", Errno: syscall.EACCES, Refusals: 1}, Refused},
		{"refused, told twice", Case{}, true, Observation{Err: "x", Errno: eperm, Refusals: 2}, Broken},
		{"refused, not told", Case{}, true, Observation{Err: "x", Errno: eperm}, Broken},
		{"refused by one that does not count", Case{}, true, Observation{Err: "x", Errno: eperm, Refusals: anyNumber}, Refused},
		{"it ran", Case{}, true, Observation{Marker: true}, Open},
		{"it ran and was refused", Case{}, true, Observation{Marker: true, Err: "x", Errno: eperm, Refusals: 1}, Open},
		{"another error", Case{}, true, Observation{Err: "x", Errno: enoent}, Broken},
		{"nothing at all", Case{}, true, Observation{}, Broken},
		{"write refused", Case{Also: busy}, true, Observation{Err: "x", Errno: ebusy}, Refused},
		{"write refused where none was expected", Case{}, true, Observation{Err: "x", Errno: ebusy}, Broken},
		{"silent", Case{Silent: true, Refusals: anyNumber}, true, Observation{Refusals: 3}, Refused},
		{"silent, nothing refused", Case{Silent: true, Refusals: anyNumber}, true, Observation{}, Broken},
		{"trusted", Case{Allow: true}, true, Observation{Marker: true}, Runs},
		{"trusted and refused", Case{Allow: true}, true, Observation{Err: "x", Errno: eperm, Refusals: 1}, Blocked},
		{"counted", Case{Refusals: 64}, true, Observation{Err: "x", Errno: eperm, Refusals: 64}, Refused},
		{"counted wrong", Case{Refusals: 64}, true, Observation{Err: "x", Errno: eperm, Refusals: 63}, Broken},
		{"hung", Case{}, true, Observation{Hung: true}, Hangs},
	} {
		if got, _ := judge(c.c, c.enforced, c.o); got != c.want {
			t.Errorf("%s: got %s, want %s", c.what, got, c.want)
		}
	}
}

func TestProblems(t *testing.T) {
	defer func(all []Case) { cases = all }(cases)
	cases = []Case{{ID: "B01", Name: "x"}}
	own, other := Column{bpf, "6.1"}, Column{fapolicyd, "6.12"}
	listed := []Limit{{Case: "B01 x", Mechanisms: []string{bpf}, State: "open", Reason: "why"}}
	for _, c := range []struct {
		what   string
		col    Column
		state  string
		limits []Limit
		want   int
	}{
		{"refused", own, Refused, nil, 0},
		{"open", own, Open, nil, 1},
		{"hangs", own, Hangs, nil, 1},
		{"hangs and listed", own, Hangs, listed, 0},
		{"open and listed", own, Open, listed, 0},
		{"listed for another mechanism", Column{notify, "6.12"}, Open, listed, 1},
		{"listed and not open", own, Refused, listed, 1},
		{"broken, listed or not", own, Broken, listed, 1},
		{"trusted code blocked", own, Blocked, nil, 1},
		{"not there", own, Absent, nil, 0},
		{"somebody else's", other, Open, nil, 0},
	} {
		table := newTable([]Column{c.col})
		table.add(c.col, Result{Case: "B01 x", Enforced: true, State: c.state})
		if got := table.problems(c.limits); len(got) != c.want {
			t.Errorf("%s: got %q", c.what, got)
		}
	}
	if got := newTable([]Column{own}).problems(nil); len(got) != 1 {
		t.Errorf("never tried: got %q", got)
	}
}

func TestPayloadIsAProgram(t *testing.T) {
	a, b := program(fixed, goodMark), program(fixed, markers+"/0001")
	if bytes.Equal(a, b) || len(a) != len(b) {
		t.Error("two payloads must differ in content and agree in size")
	}
	for _, kind := range []uint16{fixed, anywhere} {
		f, err := elf.NewFile(bytes.NewReader(program(kind, goodMark)))
		if err != nil || uint16(f.Type) != kind || len(f.Progs) != 1 {
			t.Errorf("kind %d: %+v, %v", kind, f, err)
		}
	}
}
