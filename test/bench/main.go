// Command bench measures what Cordon costs on this machine and prints it beside
// what it should cost at most: programs and files under a restriction, the time
// from a request to the report, creates per second, building the trust set, and
// the memory of an agent and of a connection.
//
// Whatever is compared is measured in turns within one run; figures are medians
// with their quartiles. It is confined as the demo is: agents enforce on small
// file systems of their own, in a private mount namespace that ends with the
// bench. It ends with status 1 only if something could not be measured at all.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// atMost bounds the bench: then the part that enforces is killed, from outside
// of everything that is enforced, and the kernel lets go.
const atMost = 8 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch len(os.Args) {
	case 2:
		err = confine(ctx, os.Args[1])
	case 4: // started by confine
		err = measure(ctx, lab{cordon: os.Args[1], disk: os.Args[2], mounts: os.Args[3]})
	default:
		err = errors.New("usage: bench PATH-OF-CORDON")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// confine runs the bench in a mount namespace of its own, on two directories
// that it removes afterwards. Nothing that is mounted inside is to be seen here.
func confine(ctx context.Context, cordon string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("it enforces restrictions on file systems that it mounts, so it needs root")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if cordon, err = filepath.Abs(cordon); err != nil {
		return err
	}
	args := []string{cordon}
	for _, in := range []string{"/var/tmp", "/run"} { // hier(7): the first is on a disk; the second is root's, on its whole path
		dir, failed := os.MkdirTemp(in, "cordon-bench-")
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		args = append(args, dir)
	}
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make a private mount namespace: %w", err)
	}
	defer time.AfterFunc(atMost, func() { _ = cmd.Process.Kill() }).Stop()
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("in the private mount namespace: %w", err)
	}
	return nil
}

// bench is what the measurements share.
type bench struct {
	context.Context
	lab
	targets            int
	missed, unmeasured []string
}

func measure(ctx context.Context, l lab) (err error) {
	b := &bench{Context: ctx, lab: l}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	defer func() { err = errors.Join(err, b.close()) }()
	began, note := time.Now(), ""
	busyBefore, _ := processorTime()
	// What else runs on the machine is not what is measured. All that is started inherits it.
	if unix.Setpriority(unix.PRIO_PROCESS, 0, -20) == nil {
		note = ", over which the bench has priority"
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	say("Cordon bench: Linux %s, %d × %s, %s %s/%s", unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), field("/proc/cpuinfo", "model name"), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	say("Medians [quartiles] of one run. The machine's load was %.4s when it began%s.", field("/proc/loadavg", ""), note)

	b.section("Durable creates per second, each with its audit entry", b.creates)
	b.section("Lists of a million actions", b.lists)
	b.section("Trust set of the whole installed system", b.trustSet)
	b.section("A server, and an agent that restricts a tmpfs", b.onTmpfs)
	b.section("An agent that restricts an ext4", b.onExt4)
	b.section("fapolicyd on the same work", b.fapolicyd)

	err = b.close() // so that the processor time of what was started is counted
	busy, own := processorTime()
	took := time.Since(began)
	say("\n%d of %d targets met, in %s. Meanwhile other work had %.0f %% of the processors.", b.targets-len(b.missed), b.targets,
		took.Round(time.Second), 100*(busy-busyBefore-own).Seconds()/took.Seconds()/float64(runtime.NumCPU()))
	for _, m := range b.missed {
		say("   missed: %s", m)
	}
	if len(b.unmeasured) > 0 {
		return errors.Join(err, fmt.Errorf("not measured: %s", strings.Join(b.unmeasured, "; ")))
	}
	return err
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// failure is what check panics with.
type failure struct{ error }

// check ends the section that is being measured, if err is not nil. It is for
// the section's own goroutine.
func check(err error) {
	if err != nil {
		panic(failure{err})
	}
}

// must is check for what comes with a value.
func must[T any](v T, err error) T {
	check(err)
	return v
}

// section runs one group of measurements. That one fails is no reason not to
// try the next.
func (b *bench) section(title string, measure func()) {
	say("\n== %s", title)
	defer func() {
		switch f := recover().(type) {
		case nil:
		case failure:
			say("   NOT MEASURED: %v", f.error)
			b.unmeasured = append(b.unmeasured, title)
		default:
			panic(f)
		}
	}()
	check(b.Err())
	measure()
}

// figure prints what was measured, and what came out.
func (b *bench) figure(name, format string, args ...any) {
	say("   %-48s %s", name, fmt.Sprintf(format, args...))
}

// target is a figure that should be met.
func (b *bench) target(name string, met bool, target, format string, args ...any) {
	text, verdict := fmt.Sprintf(format, args...), "met"
	b.targets++
	if !met {
		verdict = "MISSED"
		b.missed = append(b.missed, fmt.Sprintf("%s: %s, target %s", name, text, target))
	}
	b.figure(name, "%-52s target %s: %s", text, target, verdict)
}
