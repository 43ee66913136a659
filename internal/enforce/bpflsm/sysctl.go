package bpflsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// sysctls is the program that decides about writes to sysctls, and the name of
// its pin. It is not attached by a link: others could detach that by a descriptor
// of it, and nobody tells of which link a command is without a race. As it is,
// every command that concerns it says so (see command of bpf/guard.h), and it
// stays attached until it is detached, so the next agent has to find it by a pin.
const sysctls = "switched"

// guardSysctls attaches the program for sysctls to all processes there are, in
// whatever cgroup, be the hierarchies of version 1 or 2: each is below the root of
// version 2. Of several programs there the last one has the last word, so it is
// attached anew when a restriction begins: after that, nobody else attaches any.
func (e *Enforcer) guardSysctls() error {
	root, err := cgroupRoot()
	if err != nil {
		return err
	}
	p := e.progs[sysctls]
	err = detachSysctls(root, p)
	if err == nil {
		err = link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(root.Fd()), Program: p, Attach: ebpf.AttachCGroupSysctl, Flags: unix.BPF_F_ALLOW_MULTI})
	}
	if err = errors.Join(err, root.Close()); err != nil {
		return fmt.Errorf("attach %s: %w", sysctls, err)
	}
	return nil
}

// freeSysctls detaches p.
func freeSysctls(p *ebpf.Program) error {
	root, err := cgroupRoot()
	if err != nil {
		return err
	}
	return errors.Join(detachSysctls(root, p), root.Close())
}

func detachSysctls(root *os.File, p *ebpf.Program) error {
	err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(root.Fd()), Program: p, Attach: ebpf.AttachCGroupSysctl})
	if err != nil && !errors.Is(err, unix.ENOENT) { // it is not attached
		return fmt.Errorf("detach %s: %w", sysctls, err)
	}
	return nil
}

// freeElderSysctls detaches what an elder's pins in dir name, if there is any.
func freeElderSysctls(dir string) error {
	p, err := ebpf.LoadPinnedProgram(filepath.Join(dir, sysctls), nil)
	if errors.Is(err, fs.ErrNotExist) { // an older agent, or one that could not have it
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the pin of %s: %w", sysctls, err)
	}
	return errors.Join(freeSysctls(p), p.Close())
}

// rootIno is the inode number of the root of the hierarchy of cgroups; what
// another cgroup namespace calls its root has another one.
const rootIno = 1

// cgroupRoot opens the root of the hierarchy of cgroups, version 2.
func cgroupRoot() (*os.File, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find the root of all cgroups: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if len(fields) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		if f, err := os.Open(unescape(fields[4])); err == nil {
			if isCgroupRoot(f) {
				return f, nil
			}
			_ = f.Close() // only looked at
		}
	}
	// Mounted for this alone, and nowhere. Not at once: it would reset the options of a mount that there is.
	fd, err := detached("cgroup2")
	if err != nil {
		return nil, fmt.Errorf("find the root of all cgroups: %w", err)
	}
	f := os.NewFile(uintptr(fd), "cgroup2")
	if !isCgroupRoot(f) {
		return nil, errors.Join(errors.New("find the root of all cgroups: it is not seen from this cgroup namespace"), f.Close())
	}
	return f, nil
}

func isCgroupRoot(f *os.File) bool {
	var sb unix.Statfs_t
	var st unix.Stat_t
	return unix.Fstatfs(int(f.Fd()), &sb) == nil && sb.Type == unix.CGROUP2_SUPER_MAGIC && unix.Fstat(int(f.Fd()), &st) == nil && st.Ino == rootIno
}

// detached returns the root of a file system that is mounted nowhere (fsmount(2)).
func detached(fstype string) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("mount %s: %w", fstype, err)
	}
	defer func() { _ = unix.Close(fs) }() // only configures
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("mount %s: %w", fstype, err)
	}
	dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return -1, fmt.Errorf("mount %s: %w", fstype, err)
	}
	return dir, nil
}
