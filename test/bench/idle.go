package main

import (
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/test/bench/figures"
)

// idle measures an agent and its guardian while nothing happens.
func (b *bench) idle(e *endpoint) {
	const lasting = 20 * time.Second
	pids := family(e.Process.Pid)
	used := func() (sum time.Duration) {
		for _, pid := range pids {
			var t unix.Timespec
			// The clock of another process's processor time; see clock_getcpuclockid(3).
			check(unix.ClockGettime(int32(^pid<<3|2), &t))
			sum += time.Duration(t.Nano())
		}
		return sum
	}
	before := used()
	time.Sleep(lasting)
	spent := used() - before
	var resident, own, program int64 // the pages of the program itself are the same ones in both
	for _, pid := range pids {
		rss, anonymous := memory(pid, "VmRSS"), memory(pid, "RssAnon")
		resident, own, program = resident+rss, own+anonymous, max(program, rss-anonymous)
	}
	b.Target("resident memory of the agent and its guardian", mb(resident) <= 40, "≤ 40 MB", "%.1f MB (%.1f MB when what they share counts once)", mb(resident), mb(own+program))
	b.Figure(fmt.Sprintf("processor time in %s", lasting), "%.1f ms = %.3f %% of one core", ms(spent), 100*float64(spent)/float64(lasting))
}

// family is an agent without notices and its guardian, its only child; see proc_tid_children(5).
func family(agent int) []int {
	var children string
	for _, thread := range must(filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", agent))) {
		children += figures.Field(thread, "")
	}
	return []int{agent, must(strconv.Atoi(children))}
}
