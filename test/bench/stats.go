package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/test/bench/figures"
)

// paired is the same work in two places, in µs per piece; ratio is by turn.
type paired struct{ free, held, ratio figures.Sample }

func (p paired) String() string {
	return fmt.Sprintf("×%s  %.2f → %.2f µs", p.ratio.Spread("%.3f"), p.free.Median(), p.held.Median())
}

// compare does n pieces of work in a free place and n in a held one, in turns
// and each going first every other time, until it has had its turns or its time.
func compare(turns int, atMost time.Duration, n int, free, held func()) (p paired) {
	// A collection would stop the world while a thread waits for a child to execute.
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	timed := func(work func(), into *figures.Sample) {
		began := time.Now()
		for range n {
			work()
		}
		*into = append(*into, float64(time.Since(began).Nanoseconds())/1e3/float64(n))
	}
	began := time.Now()
	for i := 0; i < turns && time.Since(began) < atMost; i++ {
		if i%2 == 0 {
			timed(free, &p.free)
			timed(held, &p.held)
		} else {
			timed(held, &p.held)
			timed(free, &p.free)
		}
		p.ratio = append(p.ratio, p.held[i]/p.free[i])
	}
	return p
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func mb(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// memory returns what a process's status says, in bytes; see proc_pid_status(5).
func memory(pid int, name string) int64 {
	return must(strconv.ParseInt(strings.TrimSuffix(figures.Field(fmt.Sprintf("/proc/%d/status", pid), name), " kB"), 10, 64)) << 10
}

// processorTime returns how long the machine's processors were busy or taken
// away by a hypervisor, and how much of that was ours, with that of all
// processes that have ended.
func processorTime() (busy, own time.Duration) {
	var ticks [8]int64 // of 10 ms: user, nice, system, idle, iowait, irq, softirq, steal; see proc_stat(5)
	_, err := fmt.Sscan(figures.Field("/proc/stat", "cpu"), &ticks[0], &ticks[1], &ticks[2], &ticks[3], &ticks[4], &ticks[5], &ticks[6], &ticks[7])
	var self, children unix.Rusage
	if err != nil || unix.Getrusage(unix.RUSAGE_SELF, &self) != nil || unix.Getrusage(unix.RUSAGE_CHILDREN, &children) != nil {
		return 0, 0
	}
	busy = time.Duration(ticks[0]+ticks[1]+ticks[2]+ticks[5]+ticks[6]+ticks[7]) * 10 * time.Millisecond
	return busy, time.Duration(self.Utime.Nano() + self.Stime.Nano() + children.Utime.Nano() + children.Stime.Nano())
}
