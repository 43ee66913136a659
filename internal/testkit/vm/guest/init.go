package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/testkit/vm/channel"
)

type mount struct {
	fstype, at string
	flags      uintptr
	data       string
	optional   bool // not every kernel has it
}

var first = []mount{
	{fstype: "proc", at: "/proc", flags: unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
	{fstype: "sysfs", at: "/sys", flags: unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
	{fstype: "devtmpfs", at: "/dev", flags: unix.MS_NOSUID},
}

// further is what systemd would mount.
var further = []mount{
	{fstype: "devpts", at: "/dev/pts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "gid=5,mode=620,ptmxmode=000"},
	{fstype: "tmpfs", at: "/dev/shm", flags: unix.MS_NOSUID | unix.MS_NODEV},
	{fstype: "tmpfs", at: "/run", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=755"},
	{fstype: "tmpfs", at: "/tmp", flags: unix.MS_NOSUID | unix.MS_NODEV},
	{fstype: "securityfs", at: "/sys/kernel/security"},
	{fstype: "debugfs", at: "/sys/kernel/debug", optional: true},
	{fstype: "tracefs", at: "/sys/kernel/tracing", optional: true},
	{fstype: "bpf", at: "/sys/fs/bpf", data: "mode=700"},
	{fstype: "cgroup2", at: "/sys/fs/cgroup"},
}

func mountAll(all []mount) error {
	for _, m := range all {
		if err := os.MkdirAll(m.at, 0o755); err != nil && !m.optional {
			return fmt.Errorf("make mount point: %w", err)
		}
		if err := unix.Mount(m.fstype, m.at, m.fstype, m.flags, m.data); err != nil && !m.optional {
			return fmt.Errorf("mount %s at %s: %w", m.fstype, m.at, err)
		}
	}
	return nil
}

// initialize is process 1 in the initramfs. It returns only to stop the machine.
func initialize() error {
	if err := mountAll(first); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read the kernel's command line: %w", err)
	}
	params := strings.Fields(string(cmdline))
	if has(params, channel.ParamSystem) {
		return system(has(params, channel.ParamInstall))
	}
	return micro()
}

func has(params []string, name string) bool {
	for _, p := range params {
		if p == name {
			return true
		}
	}
	return false
}

func loadModules() error {
	order, err := os.Open(channel.InitOrder)
	if err != nil {
		return fmt.Errorf("open list of modules: %w", err)
	}
	defer func() { _ = order.Close() }() // only read
	for s := bufio.NewScanner(order); s.Scan(); {
		f, err := os.Open(filepath.Join(channel.InitModules, s.Text()))
		if err != nil {
			return fmt.Errorf("open module: %w", err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close() // it goes with the guest
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load module %s: %w", s.Text(), err)
		}
	}
	return nil
}

// system puts the payload on the disk and becomes its init.
func system(install bool) error {
	const root = "/sysroot"
	if err := awaitFile("/dev/vda"); err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/dev/vda", root, "ext4", unix.MS_RELATIME, ""); err != nil {
		return fmt.Errorf("mount the disk: %w", err)
	}
	if install {
		if err := copyTree(channel.InitPayload, root); err != nil {
			return fmt.Errorf("copy the payload: %w", err)
		}
	}
	// Its memory is needed: the initramfs stays for as long as the machine runs.
	if err := errors.Join(os.RemoveAll(channel.InitPayload), os.RemoveAll(channel.InitModules)); err != nil {
		return err
	}
	for _, m := range first {
		if err := unix.Mount(m.at, root+m.at, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m.at, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	return fmt.Errorf("start init: %w", unix.Exec("/sbin/init", []string{"/sbin/init"}, []string{"TERM=dumb"}))
}

// micro serves the harness from the initramfs, as what it is: process 1 takes
// in orphans, and a child serves.
func micro() error {
	if err := mountAll(further); err != nil {
		return err
	}
	if _, err := os.Stat("/bin/busybox"); err == nil {
		if out, err := exec.Command("/bin/busybox", "--install", "-s", "/bin").CombinedOutput(); err != nil {
			return fmt.Errorf("install busybox: %w: %s", err, out)
		}
	}
	if err := os.MkdirAll(channel.UserHome, 0o755); err != nil {
		return err
	}
	if err := os.Chown(channel.UserHome, channel.UserID, channel.UserID); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("vm")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	child, err := os.StartProcess("/init", []string{"/init", "serve"}, &os.ProcAttr{Env: environ, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return fmt.Errorf("start serving: %w", err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for children: %w", err)
		case pid == child.Pid:
			return fmt.Errorf("the serving process ended with status %#x", status)
		}
	}
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // it goes with the guest
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}

// awaitFile waits for a device: the kernel finds it while we run.
func awaitFile(path string) error {
	for range 300 {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s did not appear within 30 s", path)
}

func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || rel == "." {
			return err
		}
		dst := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(dst, 0o755)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, dst)
		}
		return copyFile(path, dst)
	})
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }() // only read
	st, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, st.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
