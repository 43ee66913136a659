package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/fileid"
)

// distinct is the number of different programs, besides the one.
const distinct = 1000

// place is a file system with programs and a data file on it. All places have
// programs with the same contents, which do nothing and are as small as can be.
type place struct {
	dir      string
	programs []string // the one, and the distinct others
	data     []byte   // path of the data file, for the kernel
}

// places makes one for each directory.
func places(dirs ...string) (made []place, programs []*enforce.Canary, err error) {
	for range distinct + 1 {
		c, err := enforce.NewCanary()
		if err != nil {
			return nil, nil, err
		}
		programs = append(programs, c)
	}
	for _, dir := range dirs {
		p := place{dir: dir, data: append([]byte(filepath.Join(dir, "data")), 0)}
		for i, c := range programs {
			path := filepath.Join(dir, fmt.Sprintf("program-%04d", i))
			if err := c.WriteFile(path); err != nil {
				return nil, nil, err
			}
			p.programs = append(p.programs, path)
		}
		if err := os.WriteFile(filepath.Join(dir, "data"), []byte("data"), 0o600); err != nil {
			return nil, nil, err
		}
		made = append(made, p)
	}
	// Written data would go to the disk while others measure; and only files
	// that have not changed for a while are known by their identity.
	unix.Sync()
	time.Sleep(fileid.Settle + 500*time.Millisecond)
	return made, programs, nil
}

// execute starts a program without arguments, environment or pipes, and waits for it.
func execute(path string) error {
	pid, err := syscall.ForkExec(path, []string{path}, &syscall.ProcAttr{})
	if err != nil {
		return fmt.Errorf("execute %s: %w", path, err)
	}
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (p place) one() error { return execute(p.programs[0]) }

// each executes the distinct programs one after the other.
func (p place) each() func() error {
	next := 0
	return func() error {
		next = next%distinct + 1
		return execute(p.programs[next])
	}
}

// openClose opens the data file and closes it, by raw system calls, so that the
// scheduler of this process has no part in it.
func (p place) openClose() error {
	at := unix.AT_FDCWD
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&p.data[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// three measures the three kinds of work. report gets a name and what came out.
func three(ctx context.Context, turns int, free, held place, report func(name string, p paired)) error {
	for _, w := range []struct {
		name       string
		n          int
		free, held func() error
	}{
		{"exec of one program", 20, free.one, held.one},
		{"exec of 1,000 distinct programs", 20, free.each(), held.each()},
		{"open and close of a data file", 1500, free.openClose, held.openClose},
	} {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p, err := compare(turns, w.n, w.free, w.held)
		if err != nil {
			return err
		}
		report(w.name, p)
	}
	return nil
}

// turns of a full comparison, and of one that only shows that both places are alike.
const (
	turns        = 1000
	controlTurns = 250
)

// restricted measures an agent's cost: before, at the first execution of
// each program under a restriction, and from then on.
func (b *bench) restricted(fs string, e *endpoint, free, held place) error {
	err := three(b, controlTurns, free, held, func(name string, p paired) {
		b.figure("not restricted: "+name, "%v", p)
	})
	if err != nil {
		return err
	}
	if err := b.order(e.machine, true); err != nil {
		return err
	}
	first, err := compare(distinct, 1, free.each(), held.each())
	if err != nil {
		return err
	}
	b.figure("first exec of each of 1,000 programs", "×%s  %.0f → %.0f µs, p99 %.0f → %.0f µs", spread(first.ratio, "%.3f"),
		quantile(first.free, .5), quantile(first.held, .5), quantile(first.free, .99), quantile(first.held, .99))
	untrusted := filepath.Join(held.dir, "untrusted")
	c, err := enforce.NewCanary()
	if err != nil {
		return err
	}
	if err := c.WriteFile(untrusted); err != nil {
		return err
	}
	if err := execute(untrusted); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("a program that is not trusted was not refused, so the figures are worth nothing: %v", err)
	}
	return three(b, turns, free, held, func(name string, p paired) {
		b.most(fs+": "+name, quantile(p.ratio, .5), 1.02, "", "%v", p)
	})
}

// onTmpfs starts the server, which the later measurements use too.
func (b *bench) onTmpfs() error {
	if _, err := b.server(b); err != nil {
		return fmt.Errorf("%w\n%s", err, b.tail("server"))
	}
	var dirs []string
	for _, name := range []string{"tmpfs-free", "tmpfs-held"} {
		dir, err := b.mount(name, "cordon-bench", "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, "mode=0755,size=64m")
		if err != nil {
			return err
		}
		dirs = append(dirs, dir)
	}
	made, programs, err := places(dirs...)
	if err != nil {
		return err
	}
	var rules strings.Builder
	for _, p := range programs {
		fmt.Fprintf(&rules, "sha256 %v\n", p.Entry().Digest)
	}
	e, err := b.agent(b, "agent-tmpfs", dirs[1], rules.String())
	if err != nil {
		return err
	}
	say("   (trusted by digest: each program is read and hashed at its first execution)")
	if err := b.restricted("tmpfs", e, made[0], made[1]); err != nil {
		return err
	}
	b.section("An agent that has nothing to do, restricted", func() error { return b.idle(e) })
	b.section("From the request to the report", func() error { return b.requests(e) })
	return e.stop()
}

// onExt4 has an agent of its own.
func (b *bench) onExt4() error {
	if b.client == nil {
		return errors.New("there is no server")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		say("   left out: there is no mkfs.ext4")
		return nil
	}
	var dirs []string
	for _, name := range []string{"ext4-free", "ext4-held"} {
		image := filepath.Join(b.disk, name+".img")
		dir := filepath.Join(b.mounts, name)
		for _, args := range [][]string{
			{"truncate", "-s", "64M", image},
			{"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image},
			{"mkdir", dir},
			{"mount", "-o", "loop,nodev,nosuid", image, dir},
		} {
			if out, err := exec.CommandContext(b, args[0], args[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
			}
		}
		b.stops = append(b.stops, func() error { return errors.Join(unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir)) })
		dirs = append(dirs, dir)
	}
	made, _, err := places(dirs...)
	if err != nil {
		return err
	}
	e, err := b.agent(b, "agent-ext4", dirs[1], "path "+dirs[1]+"\n")
	if err != nil {
		return err
	}
	say("   (trusted by path: each program is known by its identity, as those of packages are)")
	if err := b.restricted("ext4", e, made[0], made[1]); err != nil {
		return err
	}
	return e.stop()
}
