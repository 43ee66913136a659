package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/test/bench/figures"
)

// background starts the C program, which prints nothing that anybody wants, and
// returns what waits for its end.
func background(mode string, n int, path string) *exec.Cmd {
	cmd := exec.Command(work, mode, "1", strconv.Itoa(n), path)
	cmd.Stderr = os.Stderr
	figures.Check(cmd.Start())
	return cmd
}

// flood measures refusals, and what a flood of them does to others.
func (g *guest) flood() {
	const refusals, samples = 2000, 200
	g.become(without)
	free := do("exec", batches, 5, tiny)
	g.become(restricted)
	before := g.Stats()
	took := do("refused", batches, 5, evil)
	after := g.Stats()
	g.Figure("one refused exec", "%s ns; a permitted one, without an agent: %s ns", took.Spread("%.0f"), free.Spread("%.0f"))
	count := func(name string, before, after uint64, want uint64) {
		g.Target(name, after-before == want, "exact", "%d of %d", after-before, want)
	}
	count("refusals that were counted", before.Refused, after.Refused, batches*5)

	alone := do("exec", samples, 1, static)
	beside := func(mode, path string) figures.Sample {
		other := background(mode, refusals, path)
		s := do("exec", samples, 1, static)
		figures.Check(other.Wait())
		return s
	}
	permitted := beside("exec", tiny)
	before = g.Stats()
	flooded := beside("refused", evil)
	after = g.Stats()
	latency := func(s figures.Sample) string {
		return fmt.Sprintf("%.3f ms, p99 %.3f, longest %.3f", s.Median()/1e6, s.At(.99)/1e6, s.At(1)/1e6)
	}
	g.Figure("exec of a trusted program, alone", "%s", latency(alone))
	g.Figure("… while another process executes trusted ones", "%s", latency(permitted))
	g.Figure("… while another process is refused", "%s", latency(flooded))
	count("refusals that were counted in that flood", before.Refused, after.Refused, refusals)
}

// flip measures how long it takes until what was decided is in force.
func (g *guest) flip() {
	g.become(idle)
	quiet := g.flips(50)
	var others []*exec.Cmd
	defer func() {
		for _, o := range others {
			_ = o.Process.Kill() // it would spin for ever
			_ = o.Wait()         // it was killed
		}
	}()
	for range 4 {
		others = append(others, background("spin", 1<<40, "-"))
	}
	time.Sleep(200 * time.Millisecond) // until the scheduler knows them as what they are
	loaded := g.flips(50)
	say := func(name string, s figures.Sample) {
		g.Figure(name, "%s ms, p99 %.3f", s.Spread("%.3f"), s.At(.99))
	}
	say("the set is there: Apply(enforce)", quiet)
	say("… while four processes keep the processor busy", loaded)
}

// flips returns how many ms it takes to restrict, when the set is in the kernel already.
func (g *guest) flips(n int) (s figures.Sample) {
	for range n {
		figures.Check(g.Apply(cordon.ModeOff, g.set))
		began := time.Now()
		figures.Check(g.Apply(cordon.ModeEnforce, g.set))
		s = append(s, float64(time.Since(began).Nanoseconds())/1e6)
	}
	return s
}

// sets measures trust sets of all sizes.
func (g *guest) sets() {
	small := g.set
	defer func() { g.set = small }()
	ofSets := func(name string) bool { return strings.HasSuffix(name, "_set") }
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		g.become(idle)
		before, free := mapMemory(ofSets), resident()
		entries, sizes := invent(n-len(g.trusted), rand.NewChaCha8([32]byte{}))
		began := time.Now()
		g.set = cordon.NewTrustSet(append(entries, g.trusted...), nil)
		sorted := time.Since(began)
		entries = nil
		held := resident() - free
		began = time.Now()
		figures.Check(g.Apply(cordon.ModeOff, g.set))
		loaded := time.Since(began)
		inKernel, peak := mapMemory(ofSets)-before, figures.Field("/proc/self/status", "VmHWM")
		switches := g.flips(20)
		g.Figure(fmt.Sprintf("%d contents of %d sizes: time", n, sizes), "sorted in %.0f ms, loaded in %.0f ms; then restricted in %s ms", sorted.Seconds()*1e3, loaded.Seconds()*1e3, switches.Spread("%.3f"))
		g.Figure("… memory", "map in the kernel %.1f MiB; in the process %.1f MiB (all of it, while it loads: %s)", mib(inKernel), mib(held), peak)
		g.set = small
		g.release()
	}
}

func mib[T int64 | uint64](bytes T) float64 { return float64(bytes) / (1 << 20) }

// invent makes n entries of files between 1 byte and 200 kB, and says how many sizes they have.
func invent(n int, random *rand.ChaCha8) (entries []cordon.TrustEntry, sizes int) {
	seen := make(map[int64]struct{})
	r := rand.New(random)
	for range n {
		e := cordon.TrustEntry{Size: 1 + r.Int64N(200_000), Origin: "dpkg:invented"}
		_, _ = random.Read(e.Digest[:]) // never fails
		seen[e.Size] = struct{}{}
		entries = append(entries, e)
	}
	return entries, len(seen)
}

// resident is the memory of this process when nothing superfluous is in it, in bytes.
func resident() int64 {
	runtime.GC()
	debug.FreeOSMemory()
	return figures.Must(strconv.ParseInt(strings.TrimSuffix(figures.Field("/proc/self/status", "VmRSS"), " kB"), 10, 64)) << 10
}
