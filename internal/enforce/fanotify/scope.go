package fanotify

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

// mount is one line of proc_pid_mountinfo(5).
type mount struct {
	dev    uint64
	point  string
	fstype string
}

// pseudo are file systems that hold no programs, or refuse marks.
var pseudo = map[string]bool{
	"proc": true, "sysfs": true, "devpts": true, "cgroup": true, "cgroup2": true, "securityfs": true, "debugfs": true, "tracefs": true,
	"bpf": true, "pstore": true, "mqueue": true, "configfs": true, "autofs": true, "binfmt_misc": true, "nsfs": true, "rpc_pipefs": true,
	"efivarfs": true, "fusectl": true, "selinuxfs": true, "smackfs": true,
}

// trait is what has to be known of a file system before a file on it is judged.
type trait uint8

const (
	// remote: its answers come from somebody who may not answer, or may answer
	// differently the next time.
	remote trait = 1 + iota
	// timeless: a write through a shared mapping need not move a file's change
	// time there, so that an identity proves nothing once somebody could write.
	// Seen on tmpfs (Linux 6.18): a page that was read first is mapped writable.
	timeless
)

func traitOf(fstype string) trait {
	switch fstype {
	case "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "virtiofs", "glusterfs", "lustre", "fuse", "fuseblk":
		return remote
	case "tmpfs", "ramfs", "devtmpfs", "hugetlbfs", "overlay":
		return timeless
	}
	if strings.HasPrefix(fstype, "fuse.") {
		return remote
	}
	return 0
}

func readMounts() ([]mount, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mount table: %w", err)
	}
	return parseMounts(bytes.NewReader(data))
}

// parseMounts reads proc_pid_mountinfo(5).
func parseMounts(r io.Reader) ([]mount, error) {
	var mounts []mount
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 6 || len(rest) < 1 {
			return nil, fmt.Errorf("read mount table: line %q is not understood", lines.Text())
		}
		major, minor, _ := strings.Cut(fields[2], ":")
		ma, err1 := strconv.ParseUint(major, 10, 32)
		mi, err2 := strconv.ParseUint(minor, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("read mount table: %w", err)
		}
		mounts = append(mounts, mount{unix.Mkdev(uint32(ma), uint32(mi)), unescape(fields[4]), rest[0]})
	}
	return mounts, lines.Err()
}

// unescape undoes the octal escapes of blanks, tabs, newlines and backslashes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// watchMount marks the scope's mount. It is called with apply held.
func (e *Enforcer) watchMount() error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	e.learnTraits(mounts)
	for _, m := range mounts {
		if m.point == e.scope.Mount {
			if err := e.group.watch(unix.FAN_MARK_MOUNT, m.point); err != nil {
				return watchError(m.point, err)
			}
			return nil
		}
	}
	return cordon.Errorf(cordon.Unavailable, "", "the scope %s is not mounted here: mount it in the agent's mount namespace first", e.scope.Mount)
}

// watchHost marks every real file system of the mount table, in all mount
// namespaces. It is called with apply held.
func (e *Enforcer) watchHost() error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	e.learnTraits(mounts)
	done := make(map[uint64]bool)
	for _, m := range mounts {
		if pseudo[m.fstype] || done[m.dev] {
			continue
		}
		err := e.group.watch(unix.FAN_MARK_FILESYSTEM, m.point)
		switch {
		case err == nil:
			done[m.dev] = true
		case m.point == "/":
			return watchError(m.point, err)
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EACCES):
			// Hidden below another mount, or not for us (FUSE without allow_other):
			// another mount of the same file system may do.
		default:
			e.log.Warn("file system not watched: programs on it are not judged", "mount", m.point, "type", m.fstype, "err", err)
		}
	}
	return nil
}

func (e *Enforcer) learnTraits(mounts []mount) {
	traits := make(map[uint64]trait)
	for _, m := range mounts {
		if t := traitOf(m.fstype); t != 0 {
			traits[m.dev] = t
		}
	}
	e.traits.Store(&traits)
}

func watchError(point string, err error) error {
	if errors.Is(err, unix.EINVAL) {
		return cordon.Errorf(cordon.Unavailable, "", "this kernel gives no verdict to fanotify on executions (Linux 5.0 with CONFIG_FANOTIFY_ACCESS_PERMISSIONS does)")
	}
	return &cordon.Error{Kind: cordon.Unavailable, Message: "executions on " + point + " cannot be watched", Err: err}
}

// followMounts marks file systems as they are mounted: the kernel raises
// POLLPRI on the mount table when it changes (proc_pid_mounts(5)).
func (e *Enforcer) followMounts() {
	table, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		e.log.Error("new mounts will not be watched", "err", err)
		return
	}
	defer func() { _ = unix.Close(table) }() // only polled
	fds := []unix.PollFd{{Fd: int32(table), Events: unix.POLLPRI}, {Fd: int32(e.stop), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			e.log.Error("new mounts will not be watched", "err", err)
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		e.apply.Lock()
		if e.watching {
			if err := e.watchHost(); err != nil {
				e.log.Error("mount table changed and could not be followed", "err", err)
			}
		}
		e.apply.Unlock()
	}
}
