package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/enforce"
)

// Result is a cell: what came of a case, without or with enforcement.
type Result struct {
	Case     string
	Enforced bool
	State    string
	Why      string
}

// role runs what this program is for where it is started as something else than
// the command; done is false if it is not.
func role() (code int, done bool) {
	what := os.Getenv(roleVar)
	if err := os.Unsetenv(roleVar); err != nil {
		return 1, true
	}
	kind, arg, _ := strings.Cut(what, ":")
	var err error
	switch kind {
	case "":
		return 0, false
	case "in":
		return innerMain(arg, os.Args[1:]), true
	case "agent":
		err = agentMain(arg)
	case "guardian":
		err = enforce.GuardianMain()
	case "guest":
		err = guestMain(arg, os.Args[1:], os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1, true
	}
	return 0, true
}

// guestMain tries all cases in a guest, first without and then with enforcement,
// and writes results as JSON. With names it tries only those.
func guestMain(mechanism string, names []string, out io.Writer) error {
	if err := furnish(); err != nil {
		return err
	}
	r := runner{mechanism: mechanism, out: json.NewEncoder(out), skip: map[string]bool{}}
	for _, c := range cases {
		if len(names) == 0 || matches(c, names) {
			r.cases = append(r.cases, c)
		}
	}
	for _, phase := range []func() error{
		func() error { return r.phase(false, func(c Case) bool { return !c.Attacks }) },
		func() error { return r.start(mechanism, false) },
		func() error { return r.phase(false, func(c Case) bool { return c.Attacks }) },
		func() error { return r.enforce() },
		func() error { return r.phase(true, func(c Case) bool { return !c.Strict && !c.Attacks }) },
		func() error { return r.phase(true, func(c Case) bool { return c.Attacks }) },
		func() error { return r.strict() },
		func() error { return r.phase(true, func(c Case) bool { return c.Strict }) },
	} {
		if err := phase(); err != nil {
			return err
		}
	}
	return nil
}

func matches(c Case, names []string) bool {
	for _, n := range names {
		if strings.HasPrefix(c.String(), n) {
			return true
		}
	}
	return false
}

// furnish writes the files that attempts need and the list of those that are trusted.
func furnish() error {
	if err := errors.Join(os.MkdirAll(markers, 0o777), os.Chmod(markers, 0o777), makeVictims()); err != nil {
		return err
	}
	var err error
	if early, err = os.OpenFile("/proc/sys/kernel/ftrace_enabled", os.O_RDWR, 0); err != nil {
		return err
	}
	// The same program with another content, to be an agent.
	b, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	if err := put(agentProgram, append(b, "agent"...)); err != nil {
		return err
	}
	list := []string{self, agentProgram, busybox, loader, load, linked, good, theScript, theData}
	for _, pattern := range []string{"/lib/x86_64-linux-gnu/*", "/trusted/*.so", "/usr/bin/*", "/usr/lib/python3.11/*.py", "/usr/lib/python3.11/encodings/*.py", "/usr/share/tcltk/tcl8.6/*.tcl"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		list = append(list, found...)
	}
	return put(trustList, []byte(strings.Join(list, "\n")+"\n"))
}

type runner struct {
	mechanism string
	cases     []Case
	out       *json.Encoder
	n         int
	skip      map[string]bool // what is missing, or proves nothing
	enforcer  *enforcer
}

func (r *runner) start(mechanism string, enforced bool) (err error) {
	if mechanism == fapolicyd && !enforced {
		return nil // it knows no other mode
	}
	if r.enforcer, err = startEnforcer(mechanism); err == nil && enforced && mechanism != fapolicyd {
		_, err = r.enforcer.tell("enforce")
	}
	return err
}

func (r *runner) enforce() error {
	if r.enforcer == nil {
		return r.start(r.mechanism, true)
	}
	err := makeState()
	if err == nil && r.mechanism == bpf {
		err = prepare(r.enforcer)
	}
	if err == nil {
		_, err = r.enforcer.tell("enforce")
	}
	return err
}

// strict goes on with an enforcer that refuses executable memory without a file, if there is one.
func (r *runner) strict() error {
	if r.mechanism != bpf {
		return nil
	}
	if err := r.enforcer.stop(); err != nil {
		return err
	}
	return r.start(bpf+"-strict", true)
}

func (r *runner) phase(enforced bool, which func(Case) bool) error {
	for _, c := range r.cases {
		if !which(c) || r.skip[c.Name] {
			continue
		}
		res, err := r.try(c, enforced)
		if err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		if res.State == Absent || res.State == Broken && !enforced {
			r.skip[c.Name] = true
		}
		if err := r.out.Encode(res); err != nil {
			return err
		}
		if c.Attacks && r.enforcer != nil && !r.enforcer.alive() {
			r.enforcer.kill()
			if err := r.start(r.mechanism, enforced); err != nil {
				return fmt.Errorf("after %s: %w", c, err)
			}
		}
	}
	return nil
}

// attemptLimit is far above what any attempt takes in a slow emulator that has a
// processor for itself; those that take long have longLimit.
const (
	attemptLimit = 40 * time.Second
	longLimit    = 6 * time.Minute
)

// try makes one attempt. An error is the suite's own.
func (r *runner) try(c Case, enforced bool) (Result, error) {
	r.n++
	res := Result{Case: c.String(), Enforced: enforced}
	limit := attemptLimit
	if c.Long {
		limit = longLimit
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	w, err := newWorld(ctx, r.n, c.Allow, r.enforcer)
	if err != nil {
		return res, err
	}
	defer w.close()
	if enforced && c.Strict && r.mechanism != bpf {
		res.State, res.Why = Absent, "it cannot refuse code without a file"
		return res, nil
	}
	if c.Lacks != nil {
		if why := c.Lacks(w); why != "" {
			res.State, res.Why = Absent, why
			return res, nil
		}
	}
	before := anyNumber
	if enforced {
		before = r.enforcer.refusals()
	}
	var guard *exec.Cmd
	if c.Attacks && enforced {
		if guard, err = watchdog(r.enforcer.pid()); err != nil {
			return res, err
		}
	}
	o := observe(attempt(c, w))
	o.Hung = ctx.Err() != nil
	if guard != nil {
		_ = guard.Process.Kill()
		o.Hung = guard.Wait() == nil // it came to its end
	}
	o.Marker = w.ran()
	if after := anyNumber; before != anyNumber && r.enforcer.alive() {
		if after = r.enforcer.refusals(); after != anyNumber {
			o.Refusals = after - before
		}
	}
	res.State, res.Why = judge(c, enforced, o)
	return res, nil
}

// watchdog starts a process that kills another one after a while, so that who
// waits for it goes on. It is a process, as all of this one may be waiting.
func watchdog(pid int) (*exec.Cmd, error) {
	cmd := exec.Command(self, strconv.Itoa(pid))
	cmd.Env = append(os.Environ(), roleVar+"=in:watchdog")
	return cmd, cmd.Start()
}

func init() {
	inner["watchdog"] = func(args []string) error {
		pid, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		time.Sleep(attemptLimit)
		return unix.Kill(pid, unix.SIGKILL)
	}
}

func attempt(c Case, w *World) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return c.Attempt(w)
}
