package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/enforce/bpflsm"
	"github.com/cordon-project/cordon/test/bench/figures"
)

// guest is the measurements in the virtual machine.
type guest struct {
	*figures.Report
	trusted          []cordon.TrustEntry
	set              *cordon.TrustSet
	*bpflsm.Enforcer // nil while there is none
}

// What the guest makes for itself.
const (
	home     = "/bench/home"
	data     = "/bench/data"
	evil     = "/bench/evil"
	tiny     = "/bench/tiny"   // as small as a program can be
	strange  = "/bench/first-" // and a number: programs that nobody has executed
	distinct = 200
)

func measure(kernel string) error {
	g := &guest{Report: &figures.Report{Out: os.Stdout}}
	g.Say("Cordon bench: BPF LSM on Linux %s, one emulated processor.", figures.Field("/proc/sys/kernel/osrelease", ""))
	g.Say("Time counts instructions: 1 ns is one. Medians [quartiles] of one run.")
	debug.SetGCPercent(400) // few collections, which share the one processor
	g.Section("What is measured is there", g.prepare)
	g.Section("Without an agent, with one, restricted", g.compare)
	g.Section("Where it goes, by the kernel's own statistics (restricted)", g.hooks)
	g.Section("The first execution of a file", g.first)
	g.Section("A flood of refused executions", g.flood)
	g.Section("From the decision to in force", g.flip)
	g.Section("Many trusted contents", g.sets)
	g.Section("The end", g.release)
	return g.End(".")
}

func (g *guest) prepare() {
	figures.Check(os.MkdirAll(home, 0o700))
	figures.Check(os.WriteFile(data, bytes.Repeat([]byte("data"), 1024), 0o600))
	c := figures.Must(enforce.NewCanary())
	figures.Check(c.WriteFile(evil))
	for _, path := range []string{tiny, strange} {
		n := 1
		if path == strange {
			n = 2 * distinct
		}
		for i := range n {
			c, to := figures.Must(enforce.NewCanary()), path
			if path == strange {
				to += strconv.Itoa(i)
			}
			figures.Check(c.WriteFile(to))
			g.trusted = append(g.trusted, c.Entry())
		}
	}
	for _, path := range []string{self, work, static, dynamic, loader, libc, "/bin/busybox", "/init"} {
		g.trust(path)
	}
	g.set = cordon.NewTrustSet(g.trusted, nil)
	g.Figure("contents in the trust set", "%d", g.set.Len())
}

func (g *guest) trust(path string) {
	content := figures.Must(os.ReadFile(path))
	g.trusted = append(g.trusted, cordon.TrustEntry{Digest: sha256.Sum256(content), Size: int64(len(content)), Origin: "bench"})
}

// state is what surrounds a measurement.
type state int

const (
	without state = iota // no agent, no programs in the kernel
	idle                 // an agent, not restricted
	restricted
	states
)

// become makes a state true.
func (g *guest) become(s state) {
	if s == without {
		g.release()
		return
	}
	if g.Enforcer == nil {
		// As an agent for the whole machine does.
		g.Enforcer = figures.Must(bpflsm.Open(bpflsm.Config{Log: slog.New(slog.DiscardHandler), Pins: bpflsm.Pins, Home: home, TrustedScripts: true}))
		go func(e *bpflsm.Enforcer) {
			for range e.Refusals() { // somebody listens
			}
		}(g.Enforcer)
	}
	mode := cordon.ModeOff
	if s == restricted {
		mode = cordon.ModeEnforce
	}
	figures.Check(g.Apply(mode, g.set))
}

// release ends the enforcer and waits until the kernel has no programs of it any more.
func (g *guest) release() {
	if g.Enforcer == nil {
		return
	}
	err := errors.Join(g.Apply(cordon.ModeOff, nil), g.Close())
	g.Enforcer = nil
	figures.Check(err)
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, err := ebpf.ProgramGetNextID(0)
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		figures.Check(err)
		if time.Now().After(end) {
			figures.Check(errors.New("the kernel keeps programs that nobody holds"))
		}
	}
}

// do has the C program do something in batches, and returns what one took, in ns.
func do(mode string, batches, n int, path string) figures.Sample {
	var said bytes.Buffer
	cmd := exec.Command(work, mode, strconv.Itoa(batches), strconv.Itoa(n), path)
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		figures.Check(fmt.Errorf("%s %s: %w: %s", mode, filepath.Base(path), err, said.String()))
	}
	return figures.Must(parse(string(out), batches))
}

// parse reads n numbers, one a line.
func parse(text string, n int) (s figures.Sample, err error) {
	for line := range strings.Lines(text) {
		v, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
		if err != nil {
			return nil, fmt.Errorf("parse measurement: %w", err)
		}
		s = append(s, v)
	}
	if len(s) != n {
		return nil, fmt.Errorf("%d measurements are there instead of %d", len(s), n)
	}
	return s, nil
}

// task is something that programs do every day.
type task struct {
	name, mode, path string
	n                int     // in a batch: so few that most batches see no interrupt of the timer, which comes every 4 ms
	target           float64 // of the ratio when restricted; 0: none
	taken            [states]figures.Sample
}

// tasks are what is compared. The least ratio that is not +0 % is 1.005.
func tasks() []*task {
	return []*task{
		{name: "exec of a small static program (C)", mode: "exec", path: static, n: 2, target: 1.01},
		{name: "exec of the smallest program (169 bytes)", mode: "exec", path: tiny, n: 5, target: 1.01},
		{name: "exec of a dynamic program (C)", mode: "exec", path: dynamic, n: 1, target: 1.01},
		{name: "open, read 4 KiB, close of a data file", mode: "read", path: data, n: 100, target: 1.005},
		{name: "read 4 KiB of a data file that is open", mode: "only", path: data, n: 100, target: 1.005},
		{name: "open, write 1 byte, close", mode: "write", path: data, n: 100},
		{name: "open, mmap to write, munmap, close", mode: "share", path: data, n: 50},
		{name: "open, mmap as code, munmap, close of libc", mode: "map", path: libc, n: 50},
	}
}

const (
	rounds  = 2
	batches = 40
)

// compare does each task in each state, in turns.
func (g *guest) compare() {
	all := tasks()
	for range rounds {
		for s := range states {
			g.become(s)
			for _, t := range all {
				do(t.mode, 1, 3, t.path) // nobody is asked about what was seen before
				t.taken[s] = append(t.taken[s], do(t.mode, batches, t.n, t.path)...)
			}
		}
	}
	g.Say("   (exec: from vfork to the end of wait. Each file was judged before. In brackets, the quartiles of the restricted figure)")
	for _, t := range all {
		ratio, text := t.outcome()
		if t.target == 0 {
			g.Figure(t.name, "%s", text)
			continue
		}
		g.Target(t.name, ratio <= t.target, fmt.Sprintf("≤ %+.1f %%", 100*(t.target-1)), "%s", text)
	}
}

// outcome is the ratio of restricted to without, and a line with all.
func (t *task) outcome() (ratio float64, text string) {
	none, off, on := t.taken[without], t.taken[idle], t.taken[restricted]
	ratio = on.Median() / none.Median()
	return ratio, fmt.Sprintf("%6.0f ns; agent %+.2f %%; restricted %+.2f %% = %+.0f [%+.0f–%+.0f] ns", none.Median(), 100*(off.Median()/none.Median()-1),
		100*(ratio-1), on.Median()-none.Median(), on.At(.25)-none.Median(), on.At(.75)-none.Median())
}

// first measures files that the kernel has not judged yet.
func (g *guest) first() {
	g.become(without)
	free := do("each", distinct, 1, strange)
	g.become(restricted)
	held := do("each", distinct, 1, strange)
	again := do("each", distinct, 1, strange)
	g.Figure("programs of 169 bytes: without, first, again", "%s, %s, %s ns", free.Spread("%.0f"), held.Spread("%.0f"), again.Spread("%.0f"))
	for _, size := range []int{1 << 20, 4 << 20} {
		path := fmt.Sprintf("/bench/big-%d", size)
		content := append(figures.Must(os.ReadFile(tiny)), make([]byte, size)...)
		figures.Check(os.WriteFile(path, content, 0o755))
		g.trust(path)
		g.set = cordon.NewTrustSet(g.trusted, nil)
		g.become(without)
		free := do("exec", 1, 1, path).Median()
		g.become(restricted)
		first := do("exec", 1, 1, path).Median()
		second := do("exec", 1, 1, path).Median()
		g.Figure(fmt.Sprintf("a program of %d MiB: without, first, again", size>>20), "%.0f, %.0f, %.0f ns: %.1f instructions a byte", free, first, second, (first-second)/float64(size))
	}
	say := "no"
	if flags := figures.Field("/proc/cpuinfo", "flags"); strings.Contains(flags+" ", " sha_ni ") {
		say = "yes"
	}
	g.Say("   (the pages are in memory; SHA instructions of the processor: %s)", say)
}
