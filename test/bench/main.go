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
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/test/bench/figures"
)

// atMost bounds the bench: then the part that enforces is killed, from outside
// of everything that is enforced, and the kernel lets go.
const atMost = 10 * time.Minute

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
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM, Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make a private mount namespace: %w", err)
	}
	defer time.AfterFunc(atMost, func() { _ = cmd.Process.Kill() }).Stop()             // it may have ended
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })() // it may have ended
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("in the private mount namespace: %w", err)
	}
	return nil
}

// bench is what the measurements share.
type bench struct {
	context.Context
	lab
	figures.Report
}

func measure(ctx context.Context, l lab) (err error) {
	b := &bench{Context: ctx, lab: l, Report: figures.Report{Out: os.Stdout}}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	defer func() { err = errors.Join(err, b.close()) }()
	began, note := time.Now(), ""
	busyBefore, _ := processorTime()
	// What else runs on the machine is not what is measured. What is started inherits the first.
	if unix.Setpriority(unix.PRIO_PROCESS, 0, -20) == nil && weigh(os.Getpid(), -20) == nil {
		note = ", over which the bench has priority"
	}
	b.Say("Cordon bench: Linux %s, %d × %s, %s %s/%s", figures.Field("/proc/sys/kernel/osrelease", ""), runtime.NumCPU(), figures.Field("/proc/cpuinfo", "model name"), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	b.Say("Medians [quartiles] of one run. The machine's load was %.4s when it began%s.", figures.Field("/proc/loadavg", ""), note)

	b.section("Durable creates per second, each with its audit entry", b.creates)
	b.section("Lists of a million actions", b.lists)
	b.section("Trust set of the whole installed system", b.trustSet)
	b.section("A server, and an agent that restricts a tmpfs", b.onTmpfs)
	b.section("An agent that restricts an ext4", b.onExt4)
	b.section("fapolicyd on the same work", b.fapolicyd)

	err = b.close() // so that the processor time of what was started is counted
	busy, own := processorTime()
	took := time.Since(began)
	return errors.Join(err, b.End(fmt.Sprintf(", in %s. Meanwhile other work had %.0f %% of the processors.",
		took.Round(time.Second), 100*(busy-busyBefore-own).Seconds()/took.Seconds()/float64(runtime.NumCPU()))))
}

// weigh gives the session of a process a nice value, as between sessions the
// kernel may weigh nothing else (sched(7), autogroup).
func weigh(pid, nice int) error {
	err := os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", pid), []byte(strconv.Itoa(nice)), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// check and must end the section that is being measured when something failed.
func check(err error) { figures.Check(err) }

func must[T any](v T, err error) T { return figures.Must(v, err) }

// section is a section of the report, unless the bench was told to end.
func (b *bench) section(title string, measure func()) {
	b.Section(title, func() {
		check(b.Err())
		measure()
	})
}
