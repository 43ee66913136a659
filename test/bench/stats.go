package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// quantile returns the value below which a share q of the sample lies.
func quantile(sample []float64, q float64) float64 {
	if len(sample) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(sample))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

// spread is a median with its quartiles.
func spread(sample []float64, format string) string {
	return fmt.Sprintf(format+" ["+format+"–"+format+"]", quantile(sample, .5), quantile(sample, .25), quantile(sample, .75))
}

// paired is the same work done in turns in two places, in µs per piece.
type paired struct{ free, held, ratio []float64 }

// compare does n pieces of work in a free place and n in a held one, in turns
// and each going first every other time.
func compare(turns, n int, free, held func() error) (p paired, err error) {
	// A collection would stop the world while a thread waits for a child to execute.
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	timed := func(work func() error, into *[]float64) {
		began := time.Now()
		for range n {
			if e := work(); e != nil && err == nil {
				err = e
			}
		}
		*into = append(*into, float64(time.Since(began).Nanoseconds())/1e3/float64(n))
	}
	for i := range turns {
		if i%2 == 0 {
			timed(free, &p.free)
			timed(held, &p.held)
		} else {
			timed(held, &p.held)
			timed(free, &p.free)
		}
		if err != nil {
			return p, err
		}
		p.ratio = append(p.ratio, p.held[i]/p.free[i])
	}
	return p, nil
}

func (p paired) String() string {
	return fmt.Sprintf("×%s  %.2f → %.2f µs", spread(p.ratio, "%.3f"), quantile(p.free, .5), quantile(p.held, .5))
}

func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "processor"
	}
	for line := range strings.Lines(string(info)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.Trim(name, " \t:\n")
		}
	}
	return "processor"
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
