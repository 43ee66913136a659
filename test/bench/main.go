// Command bench measures what Cordon costs on this machine and prints it beside
// what it should cost at most: programs and files under a restriction, the time
// from a request to the report, creates per second, building the trust set, and
// the memory of an agent and of a connection.
//
// Whatever is compared is measured in turns within one run; figures are medians
// with their spread. It is confined as the demo is: agents enforce on small
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
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const insideVar = "CORDON_BENCH_INSIDE"

// atMost bounds the whole bench. Who runs the part that enforces kills it then,
// from outside of everything that is enforced.
const atMost = 8 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: bench PATH-OF-CORDON")
		os.Exit(2)
	}
	run := confine
	if os.Getenv(insideVar) != "" {
		run = measure
	}
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// confine runs the bench once more, in a mount namespace of its own.
func confine(ctx context.Context, cordon string) error {
	if os.Geteuid() != 0 {
		return errors.New("it enforces restrictions on file systems that it mounts, so it needs root")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, cordon)
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make a private mount namespace: %w", err)
	}
	defer time.AfterFunc(atMost, func() { _ = cmd.Process.Kill() }).Stop()
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("the part in the private mount namespace: %w", err)
	}
	return nil
}

// bench is what the measurements share.
type bench struct {
	context.Context
	lab
	targets, missed, unmeasured []string
}

func measure(ctx context.Context, cordon string) (err error) {
	b := &bench{Context: ctx, lab: lab{cordon: cordon}}
	if err := b.lab.open(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.lab.close()) }()
	began := time.Now()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	say("Cordon bench: Linux %s, %d × %s, %s %s/%s", unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), processor(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	note := ""
	// What else runs here should not be what is measured. All that is started inherits it.
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err == nil {
		note = "; the bench has priority over it"
	}
	say("Figures are medians [quartiles] of one run. Load average when it began: %s%s.", loadAverage(), note)

	b.section("Durable creates per second, each with its audit entry", b.creates)
	b.section("Trust set of the whole installed system", b.trustSet)
	b.section("A server and an agent, restricted: tmpfs", b.onTmpfs)
	b.section("The same on ext4", b.onExt4)
	b.section("fapolicyd on the same work", b.fapolicyd)

	say("\n%d of %d targets met, in %s.", len(b.targets)-len(b.missed), len(b.targets), time.Since(began).Round(time.Second))
	for _, m := range b.missed {
		say("   missed: %s", m)
	}
	if len(b.unmeasured) > 0 {
		return fmt.Errorf("not measured: %s", strings.Join(b.unmeasured, "; "))
	}
	return nil
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// section runs one group of measurements. That one fails is no reason not to
// try the next.
func (b *bench) section(title string, measure func() error) {
	if b.Err() != nil {
		b.unmeasured = append(b.unmeasured, title+": interrupted")
		return
	}
	say("\n== %s", title)
	if err := measure(); err != nil {
		say("   NOT MEASURED: %v", err)
		b.unmeasured = append(b.unmeasured, title)
	}
}

// figure prints a line: what was measured, and what came out.
func (b *bench) figure(name, format string, args ...any) {
	say("   %-44s %s", name, fmt.Sprintf(format, args...))
}

// most prints a figure that should be at most limit, least one that should be at
// least that.
func (b *bench) most(name string, got, limit float64, unit, format string, args ...any) {
	b.judge(name, got <= limit, fmt.Sprintf("≤ %g%s", limit, unit), format, args...)
}

func (b *bench) least(name string, got, limit float64, unit, format string, args ...any) {
	b.judge(name, got >= limit, fmt.Sprintf("≥ %g%s", limit, unit), format, args...)
}

func (b *bench) judge(name string, met bool, target, format string, args ...any) {
	text, verdict := fmt.Sprintf(format, args...), "met"
	b.targets = append(b.targets, name)
	if !met {
		verdict = "MISSED"
		b.missed = append(b.missed, fmt.Sprintf("%s: %s, target %s", name, text, target))
	}
	b.figure(name, "%-58s target %s: %s", text, target, verdict)
}
