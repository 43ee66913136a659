package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/test/bench/figures"
)

// spent is what a program of ours did.
type spent struct {
	hook string
	runs uint64
	ns   uint64
}

// programs returns what each attached program has done so far, by its hook.
func programs() map[string]spent {
	kernel := figures.Must(btf.LoadKernelSpec())
	all := make(map[string]spent)
	for it := new(link.Iterator); it.Next(); {
		info := figures.Must(it.Link.Info())
		tracing := info.Tracing()
		if tracing == nil {
			continue
		}
		hook := figures.Must(kernel.TypeByID(btf.TypeID(tracing.TargetBtfId)))
		p := figures.Must(ebpf.NewProgramFromID(info.Program))
		stats, err := p.Stats()
		figures.Check(errors.Join(err, p.Close()))
		name := strings.TrimPrefix(hook.TypeName(), "bpf_lsm_")
		before := all[name] // there may be two on a hook
		all[name] = spent{name, before.runs + stats.RunCount, before.ns + uint64(stats.Runtime)}
	}
	return all
}

// share is what one hook costs one task.
type share struct {
	hook     string
	runs, ns float64
}

// shares returns what n tasks more cost than none, for each, the most first.
// What a program did before, and what the start of the tasks needs, is taken off.
func shares(start, none, full map[string]spent, n int) (all []share, total float64) {
	for hook, f := range full {
		runs := float64(f.runs-none[hook].runs) - float64(none[hook].runs-start[hook].runs)
		ns := float64(f.ns-none[hook].ns) - float64(none[hook].ns-start[hook].ns)
		if runs/float64(n) < 0.005 {
			continue
		}
		all = append(all, share{hook, runs / float64(n), ns / float64(n)})
		total += ns / float64(n)
	}
	slices.SortFunc(all, func(a, b share) int { return cmp.Or(cmp.Compare(b.ns, a.ns), cmp.Compare(a.hook, b.hook)) })
	return all, total
}

// hooks asks the kernel how often it calls each of our programs for a task, and
// how long that takes.
func (g *guest) hooks() {
	g.become(restricted)
	stats := figures.Must(ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME)))
	defer func() { figures.Check(stats.Close()) }()
	const n = 100
	for _, t := range tasks() {
		do(t.mode, 1, 3, t.path)
		start := programs()
		do(t.mode, 0, 0, t.path)
		none := programs()
		do(t.mode, 1, n, t.path)
		all, total := shares(start, none, programs(), n)
		var each []string
		for _, s := range all {
			each = append(each, fmt.Sprintf("%s %.0f", s.hook, s.ns))
			if s.runs < 0.995 || s.runs > 1.005 {
				each[len(each)-1] += fmt.Sprintf(" (%.2f runs)", s.runs)
			}
		}
		g.Figure(t.name, "%.0f ns: %s", total, strings.Join(each, ", "))
	}
	g.Say("   (with what the kernel needs to measure each run, and without what it needs to call a program)")
	var memory uint64
	var count int
	for id := ebpf.ProgramID(0); ; count++ {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		figures.Check(err)
		p := figures.Must(ebpf.NewProgramFromID(next))
		info := figures.Must(p.Info())
		bytes, _ := info.Memlock()
		memory += bytes
		figures.Check(p.Close())
		id = next
	}
	g.Figure("memory of the programs", "%d programs, %d KiB", count, memory>>10)
	g.Figure("memory of their maps, without the trust set", "%d KiB", mapMemory(func(name string) bool { return !strings.HasSuffix(name, "_set") })>>10)
}

// mapMemory is what the kernel says that maps take, of those that are asked for.
func mapMemory(want func(name string) bool) (bytes uint64) {
	for id := ebpf.MapID(0); ; {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return bytes
		}
		figures.Check(err)
		id = next
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, os.ErrNotExist) { // gone meanwhile
			continue
		}
		figures.Check(err)
		info := figures.Must(m.Info())
		if locked, _ := info.Memlock(); want(info.Name) {
			bytes += locked
		}
		figures.Check(m.Close())
	}
}
