package fanotify

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce/mount"
)

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

// watchMount marks the scope's mount. It is called with apply held.
func (e *Enforcer) watchMount() error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	e.learnTraits(table)
	for _, m := range table {
		if m.Point == e.scope.Mount {
			if err := e.group.watch(unix.FAN_MARK_MOUNT, m.Point); err != nil {
				return watchError(m.Point, err)
			}
			return nil
		}
	}
	return cordon.Errorf(cordon.Unavailable, "", "the scope %s is not mounted here: mount it in the agent's mount namespace first", e.scope.Mount)
}

// watchHost marks every real file system of the mount table, in all mount
// namespaces. It is called with apply held.
func (e *Enforcer) watchHost() error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	e.learnTraits(table)
	done := make(map[uint64]bool)
	for _, m := range table {
		if pseudo[m.Type] || done[device(m)] {
			continue
		}
		err := e.group.watch(unix.FAN_MARK_FILESYSTEM, m.Point)
		switch {
		case err == nil:
			done[device(m)] = true
		case m.Point == "/":
			return watchError(m.Point, err)
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EACCES):
			// Hidden below another mount, or not for us (FUSE without allow_other):
			// another mount of the same file system may do.
		default:
			e.log.Warn("file system not watched: programs on it are not judged", "mount", m.Point, "type", m.Type, "err", err)
		}
	}
	return nil
}

func (e *Enforcer) learnTraits(table []mount.Mount) {
	traits := make(map[uint64]trait)
	for _, m := range table {
		if t := traitOf(m.Type); t != 0 {
			traits[device(m)] = t
		}
	}
	e.traits.Store(&traits)
}

// device is how stat(2) has the number of a file system.
func device(m mount.Mount) uint64 { return unix.Mkdev(m.Major, m.Minor) }

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
