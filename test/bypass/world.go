package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Places in the guest. What is trusted lies in the root, except for victims,
// which attempts may change.
const (
	self      = "/bypass" // this program
	busybox   = "/bin/busybox"
	loader    = "/lib64/ld-linux-x86-64.so.2"
	libc      = "/lib/x86_64-linux-gnu/libc.so.6"
	load      = "/trusted/load"
	linked    = "/trusted/linked"
	libx      = "/trusted/libx.so"
	evilLib   = "/evil/libevil.so" // not trusted, nor what is made of it
	evilProg  = "/evil/program"
	ext4Image = "/evil/ext4.img"
	markers   = "/run/m"
	victims   = "/run/victims"
	goodMark  = markers + "/good"

	script = "#!/bin/sh\n: > " + goodMark + "\n"
	// A trusted file that begins like nothing else, for handlers of binfmt_misc.
	magicData = "BYPASS-TRUSTED\n"
)

// World is what one attempt has: a directory, a marker, and files of known standing.
type World struct {
	Dir     string // on a tmpfs
	marker  string // what the payload of this attempt leaves; as long as goodMark
	victim  *enforcer
	ctx     context.Context // of what the attempt starts
	cleanup []func()
}

func newWorld(ctx context.Context, n int, allow bool, e *enforcer) (*World, error) {
	w := &World{Dir: fmt.Sprintf("/tmp/b%d", n), marker: fmt.Sprintf("%s/%04d", markers, n), victim: e, ctx: ctx}
	if allow {
		w.marker = goodMark
	}
	for _, m := range []string{w.marker, goodMark} {
		if err := os.Remove(m); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := errors.Join(os.Mkdir(w.Dir, 0o777), os.Chmod(w.Dir, 0o777)); err != nil {
		return nil, err
	}
	return w, makeVictims()
}

// trusted are the contents of files that may run, by name in the directory of victims.
func trusted() map[string][]byte {
	return map[string][]byte{"good": program(fixed, goodMark), "script": []byte(script), "data": []byte(magicData)}
}

func makeVictims() error {
	if err := os.MkdirAll(victims, 0o755); err != nil {
		return err
	}
	for name, content := range trusted() {
		path := filepath.Join(victims, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := put(path, content); err != nil {
			return err
		}
	}
	return nil
}

// good is a trusted program, theScript a trusted script.
const (
	good      = victims + "/good"
	theScript = victims + "/script"
	theData   = victims + "/data"
)

func (w *World) path(name string) string { return filepath.Join(w.Dir, name) }

func (w *World) ran() bool {
	_, err := os.Lstat(w.marker)
	return err == nil
}

// mark is for attempts that succeed without a payload.
func (w *World) mark(err error) error {
	if err == nil {
		err = os.WriteFile(w.marker, nil, 0o644)
	}
	return err
}

// later is done when the attempt is over, the last first.
func (w *World) later(f func()) { w.cleanup = append(w.cleanup, f) }

func (w *World) close() {
	for i := len(w.cleanup) - 1; i >= 0; i-- {
		w.cleanup[i]()
	}
	_ = os.RemoveAll(w.Dir) // what stays is in memory, and unused
}

// evil writes a program that nobody trusts.
func (w *World) evil(name string) (string, error) {
	return w.path(name), put(w.path(name), program(fixed, w.marker))
}

// copy writes what is at from, and something after its end, as name.
func (w *World) copy(from, name string) (string, error) {
	b, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	return w.path(name), put(w.path(name), append(b, w.marker...))
}

func (w *World) text(name, format string, args ...any) (string, error) {
	return w.path(name), put(w.path(name), fmt.Appendf(nil, format, args...))
}

func (w *World) command(path string, args ...string) *exec.Cmd {
	ctx := w.ctx
	if ctx == nil {
		ctx = context.Background() // in an inner attempt, which is ended from outside
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = w.Dir
	cmd.Env = append(os.Environ(), "MARKER="+w.marker)
	return cmd
}

func (w *World) run(path string, args ...string) error { return ended(w.command(path, args...)) }

// runWith runs it with one more variable in its environment.
func (w *World) runWith(variable, path string, args ...string) error {
	cmd := w.command(path, args...)
	cmd.Env = append(cmd.Env, variable)
	out, err := cmd.CombinedOutput()
	if !w.ran() && len(out) > 0 { // the loader goes on without what it may not load, and says so
		err = fmt.Errorf("%v: %s", err, strings.TrimSpace(string(out)))
	}
	return err
}

// ended adds what the program said to its error.
func ended(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil && len(out) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return err
}

// set gives a file of /proc/sys a value until the attempt is over.
func (w *World) set(path, value string) error {
	before, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	w.later(func() { _ = os.WriteFile(path, before, 0) }) // only this attempt asks for it
	return os.WriteFile(path, []byte(value), 0)
}

func (w *World) mount(source, at, fstype string, flags uintptr, data string) error {
	if err := os.MkdirAll(at, 0o777); err != nil {
		return err
	}
	if err := unix.Mount(source, at, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", fstype, at, err)
	}
	w.later(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	return nil
}

// loop attaches a copy of the image at file and returns the device.
func (w *World) loop(file string) (string, error) {
	b, err := os.ReadFile(ext4Image)
	if err != nil {
		return "", err
	}
	if err := put(file, b); err != nil {
		return "", err
	}
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = ctl.Close() }()
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", err
	}
	dev := "/dev/loop" + strconv.Itoa(n)
	d, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return "", errors.Join(err, d.Close())
	}
	err = unix.IoctlSetInt(int(d.Fd()), unix.LOOP_SET_FD, int(f.Fd()))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, d.Close())
	}
	w.later(func() {
		_ = unix.IoctlSetInt(int(d.Fd()), unix.LOOP_CLR_FD, 0)
		_ = d.Close()
	})
	return dev, nil
}

// volume has the device mapper make a device of another one (linear), and returns
// it and what has it keep those waiting who read.
func (w *World) volume(dev string) (_ string, hold func(yes bool) error, _ error) {
	var st unix.Stat_t
	if err := unix.Stat(dev, &st); err != nil {
		return "", nil, err
	}
	ctl, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return "", nil, err
	}
	w.later(func() { _ = ctl.Close() })
	const head = 312 // struct dm_ioctl of linux/dm-ioctl.h
	tell := func(nr uintptr, targets, flags uint32, table []byte) (arg []byte, err error) {
		arg = append(make([]byte, head), table...)
		for i, v := range []uint32{4, 0, 0, uint32(len(arg)), head, targets, 0, flags} {
			binary.LittleEndian.PutUint32(arg[4*i:], v)
		}
		copy(arg[48:], "bypass")
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, ctl.Fd(), 0xc138fd00|nr, uintptr(unsafe.Pointer(&arg[0]))); errno != 0 {
			err = fmt.Errorf("device mapper: request %d: %w", nr, errno)
		}
		return arg, err
	}
	made, err := tell(3 /* DM_DEV_CREATE */, 0, 0, nil)
	if err != nil {
		return "", nil, err
	}
	w.later(func() { _, _ = tell(4 /* DM_DEV_REMOVE */, 0, 0, nil) })
	// struct dm_target_spec: where it begins and how long it is, in sectors, its type, and of what.
	table := make([]byte, 40)
	binary.LittleEndian.PutUint64(table[8:], 8<<20/512)
	copy(table[24:], "linear")
	table = append(fmt.Appendf(table, "%d:%d 0", unix.Major(st.Rdev), unix.Minor(st.Rdev)), make([]byte, 8)...)
	if _, err := tell(9 /* DM_TABLE_LOAD */, 1, 0, table); err != nil {
		return "", nil, err
	}
	hold = func(yes bool) error {
		var flags uint32
		if yes {
			flags = 1<<1 | 1<<10 // DM_SUSPEND_FLAG, DM_SKIP_LOCKFS_FLAG
		}
		_, err := tell(6 /* DM_DEV_SUSPEND */, 0, flags, nil)
		return err
	}
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(binary.LittleEndian.Uint64(made[40:]))), hold, hold(false)
}

// disks counts the RAM disks that were used: a disk from which something ran is
// not written to again.
var disks int

// disk returns an unused RAM disk with the image at start, which is in its only
// partition unless that is 0.
func (w *World) disk(start int64) (whole, part string, err error) {
	b, err := os.ReadFile(ext4Image)
	if err != nil {
		return "", "", err
	}
	whole = fmt.Sprintf("/dev/ram%d", disks)
	disks++
	d, err := os.OpenFile(whole, os.O_RDWR, 0)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = d.Close() }()
	if _, err := d.WriteAt(b, start); err != nil || start == 0 {
		return whole, whole, err
	}
	p := unix.BlkpgPartition{Start: start, Length: int64(len(b)), Pno: 1}
	arg := blkpg{op: unix.BLKPG_ADD_PARTITION, size: int32(unsafe.Sizeof(p)), data: &p}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return "", "", fmt.Errorf("add a partition: %w", errno)
	}
	return whole, whole + "p1", nil
}

// blkpg is struct blkpg_ioctl_arg.
type blkpg struct {
	op, flags, size int32
	data            *unix.BlkpgPartition
}

// ext4 mounts what is on the device and returns where.
func (w *World) ext4(dev string) (at string, err error) {
	at = w.path("ext4")
	return at, w.mount(dev, at, "ext4", 0, "")
}

// ---- attempts inside a process of their own ----

const roleVar = "CORDON_BYPASS_ROLE"

// inner are attempts that need a process of their own, because they change it, or
// because what they run ends it.
var inner = map[string]func(args []string) error{}

// in runs an inner attempt and returns its error.
func (w *World) in(name string, attr *syscall.SysProcAttr, args ...string) error {
	cmd := w.command(self, args...)
	cmd.Env = append(cmd.Env, roleVar+"=in:"+name)
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	text := strings.TrimSpace(string(out))
	number, rest, _ := strings.Cut(text, " ")
	if n, bad := strconv.Atoi(number); bad == nil {
		return fmt.Errorf("%s: %w", rest, syscall.Errno(n))
	}
	return fmt.Errorf("%w: %s", err, text)
}

// innerMain is the other end of in.
func innerMain(name string, args []string) int {
	f, ok := inner[name]
	if !ok {
		fmt.Println("no such attempt:", name)
		return 1
	}
	err := f(args)
	if err == nil {
		return 0
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		fmt.Print(int(errno), " ")
	}
	fmt.Println(err)
	return 1
}

// child registers f as the inner attempt of a case and returns an attempt that
// runs it, with the marker and the directory as its arguments.
func child(name string, f func(marker, dir string) error) func(*World) error {
	return childIn(name, nil, f)
}

func childIn(name string, attr *syscall.SysProcAttr, f func(marker, dir string) error) func(*World) error {
	inner[name] = func(args []string) error { return f(args[0], args[1]) }
	return func(w *World) error { return w.in(name, attr, w.marker, w.Dir) }
}
