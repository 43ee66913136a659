package main

import (
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
// programs with the same contents, as small as can be, which do nothing.
type place struct {
	dir      string
	programs []string // the one, and the distinct others
	data     []byte   // path of the data file, for the kernel
}

// places makes a free place and a held one in two directories.
func places(dirs []string) (free, held place, programs []*enforce.Canary, err error) {
	made := make([]place, len(dirs))
	for i := range distinct + 1 {
		c, err := enforce.NewCanary()
		if err != nil {
			return free, held, nil, err
		}
		programs = append(programs, c)
		for d, dir := range dirs {
			path := filepath.Join(dir, fmt.Sprintf("program-%04d", i))
			if err := c.WriteFile(path); err != nil {
				return free, held, nil, err
			}
			made[d].dir, made[d].programs = dir, append(made[d].programs, path)
		}
	}
	for d := range made {
		data := filepath.Join(made[d].dir, "data")
		if err := os.WriteFile(data, []byte("data"), 0o600); err != nil {
			return free, held, nil, err
		}
		made[d].data = append([]byte(data), 0)
	}
	// What was written would go to the disk while others measure; and only files
	// that have not changed for a while are known by their identity.
	unix.Sync()
	time.Sleep(fileid.Settle + 500*time.Millisecond)
	return made[0], made[1], programs, nil
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

// open opens the data file and closes it, by raw system calls, so that the
// scheduler of this process has no part in it.
func (p place) open() error {
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

// refuses tells whether a program that nobody trusts is refused in the place.
func (p place) refuses() (bool, error) {
	c, err := enforce.NewCanary()
	if err != nil {
		return false, err
	}
	path := filepath.Join(p.dir, "untrusted")
	if err := c.WriteFile(path); err != nil {
		return false, err
	}
	err = execute(path)
	return errors.Is(err, unix.EPERM), errors.Join(os.Remove(path))
}

// The time of a full comparison, and of one that is there for orientation. It
// has its turns before that on a machine that does little else.
const (
	turns   = 1000
	long    = 8 * time.Second
	briefly = 2 * time.Second
)

// compareAll measures the three kinds of work in both places.
func (b *bench) compareAll(lasting time.Duration, free, held place, report func(name string, p paired)) error {
	for _, w := range []struct {
		name       string
		n          int
		free, held func() error
	}{
		{"exec of one program", 20, free.one, held.one},
		{"exec of 1,000 distinct programs", 20, free.each(), held.each()},
		{"open and close of a data file", 1500, free.open, held.open},
	} {
		if b.Err() != nil {
			return b.Err()
		}
		p, err := compare(turns, lasting, w.n, w.free, w.held)
		if err != nil {
			return err
		}
		report(w.name, p)
	}
	return nil
}

// restricted measures what an agent costs: while it restricts nothing, at the
// first execution of each program under a restriction, and from then on.
func (b *bench) restricted(fs string, e *endpoint, free, held place) error {
	err := b.compareAll(briefly, free, held, func(name string, p paired) { b.figure("not restricted: "+name, "%v", p) })
	if err != nil {
		return err
	}
	if err := b.order(e.machine, true); err != nil {
		return err
	}
	first, err := compare(distinct, time.Minute, 1, free.each(), held.each())
	if err != nil {
		return err
	}
	b.figure("first exec of each of 1,000 programs", "%v, p99 %.0f → %.0f µs", first, first.free.at(.99), first.held.at(.99))
	if refused, err := held.refuses(); !refused {
		return errors.Join(errors.New("a program that is not trusted was not refused, so the figures are worth nothing"), err)
	}
	err = b.compareAll(long, free, held, func(name string, p paired) {
		b.target(fs+", restricted: "+name, p.ratio.median() <= 1.02, "≤ 1.02", "%v", p)
	})
	if err != nil {
		return err
	}
	// The kernel looks closer at a file system as soon as anybody watches
	// anything on it. Most file systems are watched by somebody.
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(watch) }()
	for _, p := range []place{free, held} {
		if _, err := unix.InotifyAddWatch(watch, p.programs[0], unix.IN_ATTRIB); err != nil {
			return err
		}
	}
	p, err := compare(turns, long, 1500, free.open, held.open)
	b.figure("… where both have an inotify watch somewhere", "%v", p)
	return err
}

// onTmpfs starts the server, which the later measurements use too.
func (b *bench) onTmpfs() error {
	if err := b.server(b); err != nil {
		return err
	}
	var dirs []string
	for _, name := range []string{"tmpfs-free", "tmpfs-held"} {
		dir, err := b.mount(name, "tmpfs", "mode=0755,size=64m")
		if err != nil {
			return err
		}
		dirs = append(dirs, dir)
	}
	free, held, programs, err := places(dirs)
	if err != nil {
		return err
	}
	var rules strings.Builder
	for _, p := range programs {
		fmt.Fprintf(&rules, "sha256 %v\n", p.Entry().Digest)
	}
	e, err := b.agent(b, "agent-tmpfs", held.dir, rules.String())
	if err != nil {
		return err
	}
	say("   (trusted by digest: each program is read and hashed at its first execution)")
	if err := b.restricted("tmpfs", e, free, held); err != nil {
		return err
	}
	b.section("That agent, restricted, when there is nothing to do", func() error { return b.idle(e) })
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
		image, dir := filepath.Join(b.disk, name+".img"), filepath.Join(b.mounts, name)
		for _, command := range []string{
			"truncate -s 64M " + image, "mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 " + image, "mkdir " + dir, "mount -o loop,nosuid " + image + " " + dir,
		} {
			args := strings.Fields(command)
			if out, err := exec.CommandContext(b, args[0], args[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", command, err, out)
			}
		}
		b.stops = append(b.stops, func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
		dirs = append(dirs, dir)
	}
	free, held, _, err := places(dirs)
	if err != nil {
		return err
	}
	e, err := b.agent(b, "agent-ext4", held.dir, "path "+held.dir+"\n")
	if err != nil {
		return err
	}
	say("   (trusted by path: each program is known by its identity, as those of packages are)")
	if err := b.restricted("ext4", e, free, held); err != nil {
		return err
	}
	return e.stop()
}
