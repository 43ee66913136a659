package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// idle measures an agent and its guardian while nothing happens.
func (b *bench) idle(e *endpoint) error {
	const lasting = 20 * time.Second
	agent := e.Process.Pid
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", agent)) // proc_tid_children(5)
	if err != nil {
		return err
	}
	var children string
	for _, thread := range threads {
		children += field(thread, "")
	}
	guardian, err := strconv.Atoi(children)
	if err != nil {
		return fmt.Errorf("find the agent's guardian, its only child: %w", err)
	}
	used := func() (sum time.Duration, err error) {
		for _, pid := range []int{agent, guardian} {
			var t unix.Timespec
			// The clock of another process's processor time; see clock_getcpuclockid(3).
			if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
				return 0, fmt.Errorf("read processor time: %w", err)
			}
			sum += time.Duration(t.Nano())
		}
		return sum, nil
	}
	before, err := used()
	if err != nil {
		return err
	}
	time.Sleep(lasting)
	after, err := used()
	if err != nil {
		return err
	}
	var resident, own, program int64 // the pages of the program itself are the same ones in both
	for _, pid := range []int{agent, guardian} {
		rss, err := memory(pid, "VmRSS")
		anonymous, err2 := memory(pid, "RssAnon")
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		resident, own, program = resident+rss, own+anonymous, max(program, rss-anonymous)
	}
	b.target("resident memory of the agent and its guardian", mb(resident) <= 40, "≤ 40 MB", "%.1f MB (%.1f MB when what they share counts once)", mb(resident), mb(own+program))
	b.figure(fmt.Sprintf("processor time in %s", lasting), "%.1f ms = %.3f %% of one core", ms(after-before), 100*float64(after-before)/float64(lasting))
	return nil
}

// memory returns what a process's status says, in bytes; see proc_pid_status(5).
func memory(pid int, name string) (int64, error) {
	kb, err := strconv.ParseInt(strings.TrimSuffix(field(fmt.Sprintf("/proc/%d/status", pid), name), " kB"), 10, 64)
	return kb << 10, err
}
