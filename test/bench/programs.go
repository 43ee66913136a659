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
func places(freeDir, heldDir string) (free, held place, programs []*enforce.Canary) {
	free.dir, held.dir = freeDir, heldDir
	for range distinct + 1 {
		programs = append(programs, must(enforce.NewCanary()))
	}
	for _, p := range []*place{&free, &held} {
		for i, c := range programs {
			p.programs = append(p.programs, filepath.Join(p.dir, fmt.Sprintf("program-%04d", i)))
			check(c.WriteFile(p.programs[i]))
		}
		data := filepath.Join(p.dir, "data")
		check(os.WriteFile(data, []byte("data"), 0o600))
		p.data = append([]byte(data), 0)
	}
	// What was written would go to the disk while others measure; and only files
	// that have not changed for a while are known by their identity.
	unix.Sync()
	time.Sleep(fileid.Settle + 500*time.Millisecond)
	return free, held, programs
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

func (p place) one() { check(execute(p.programs[0])) }

// each executes the distinct programs one after the other.
func (p place) each() func() {
	next := 0
	return func() {
		next = next%distinct + 1
		check(execute(p.programs[next]))
	}
}

// open opens the data file and closes it, by raw system calls, so that the
// scheduler of this process has no part in it.
func (p place) open() {
	at := unix.AT_FDCWD
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&p.data[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
	if errno != 0 {
		check(errno)
	}
}

// refuses tells whether a program that nobody trusts is refused in the place.
func (p place) refuses() bool {
	path := filepath.Join(p.dir, "untrusted")
	check(must(enforce.NewCanary()).WriteFile(path))
	err := execute(path)
	check(os.Remove(path))
	return errors.Is(err, unix.EPERM)
}

// The time of a full comparison, and of one that is there for orientation. It
// has its turns before that on a machine that does little else.
const (
	turns   = 1000
	long    = 8 * time.Second
	briefly = 2 * time.Second
)

// compareAll measures the three kinds of work in both places.
func (b *bench) compareAll(lasting time.Duration, free, held place, report func(name string, p paired)) {
	for _, w := range []struct {
		name       string
		n          int
		free, held func()
	}{
		{"exec of one program", 20, free.one, held.one},
		{"exec of 1,000 distinct programs", 20, free.each(), held.each()},
		{"open and close of a data file", 1500, free.open, held.open},
	} {
		check(b.Err())
		report(w.name, compare(turns, lasting, w.n, w.free, w.held))
	}
}

// restricted measures what an agent costs: while it restricts nothing, at the
// first execution of each program under a restriction, and from then on.
func (b *bench) restricted(fs string, e *endpoint, free, held place) {
	b.compareAll(briefly, free, held, func(name string, p paired) { b.Figure("not restricted: "+name, "%v", p) })
	check(b.order(e.machine, true))
	first := compare(distinct, time.Minute, 1, free.each(), held.each())
	b.Figure("first exec of each of 1,000 programs", "%v, p99 %.0f → %.0f µs", first, first.free.At(.99), first.held.At(.99))
	if !held.refuses() {
		check(errors.New("a program that is not trusted was not refused, so the figures are worth nothing"))
	}
	b.compareAll(long, free, held, func(name string, p paired) {
		b.Target(fs+", restricted: "+name, p.ratio.Median() <= 1.02, "≤ 1.02", "%v", p)
	})
	// The kernel looks closer at every file of a file system as soon as anybody
	// watches anything on it, and on most somebody does.
	watch := must(unix.InotifyInit1(unix.IN_CLOEXEC))
	defer func() { check(unix.Close(watch)) }()
	must(unix.InotifyAddWatch(watch, free.programs[0], unix.IN_ATTRIB))
	must(unix.InotifyAddWatch(watch, held.programs[0], unix.IN_ATTRIB))
	b.Figure("… where both have an inotify watch somewhere", "%v", compare(turns, long, 1500, free.open, held.open))
}

// onTmpfs starts the server, which the later measurements use too.
func (b *bench) onTmpfs() {
	b.server(b)
	free, held, programs := places(b.mount("tmpfs-free", "tmpfs", "mode=0755"), b.mount("tmpfs-held", "tmpfs", "mode=0755"))
	var rules strings.Builder
	for _, p := range programs {
		fmt.Fprintf(&rules, "sha256 %v\n", p.Entry().Digest)
	}
	e := b.agent(b, "agent-tmpfs", held.dir, rules.String())
	b.Say("   (trusted by digest: each program is read and hashed at its first execution)")
	b.restricted("tmpfs", e, free, held)
	b.section("That agent, restricted, when there is nothing to do", func() { b.idle(e) })
	b.section("From the order to the first program that is refused (fanotify)", func() { b.inForceUnderLoad(e, held) })
	b.section("From the request to the report", func() { b.requests(e) })
	check(e.stop())
}

// onExt4 has an agent of its own.
func (b *bench) onExt4() {
	if b.client == nil {
		check(errors.New("there is no server"))
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		b.Say("   left out: there is no mkfs.ext4")
		return
	}
	ext4 := func(name string) string {
		image, dir := filepath.Join(b.disk, name+".img"), filepath.Join(b.mounts, name)
		for _, command := range []string{
			"truncate -s 64M " + image, "mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 " + image, "mkdir " + dir, "mount -o loop,nosuid " + image + " " + dir,
		} {
			args := strings.Fields(command)
			if out, err := exec.CommandContext(b, args[0], args[1:]...).CombinedOutput(); err != nil {
				check(fmt.Errorf("%s: %w: %s", command, err, out))
			}
		}
		b.stops = append(b.stops, func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
		return dir
	}
	free, held, _ := places(ext4("ext4-free"), ext4("ext4-held"))
	e := b.agent(b, "agent-ext4", held.dir, "path "+held.dir+"\n")
	b.Say("   (trusted by path: each program is known by its identity, as those of packages are)")
	b.restricted("ext4", e, free, held)
	check(e.stop())
}
