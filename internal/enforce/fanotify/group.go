package fanotify

import (
	"errors"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

// What this package asks of fanotify(7).
const (
	// The content class answers before any other listener has seen the file.
	// Unlimited queue and marks, because an event that does not fit is one that nobody judges.
	initFlags  = unix.FAN_CLASS_CONTENT | unix.FAN_CLOEXEC | unix.FAN_NONBLOCK | unix.FAN_UNLIMITED_QUEUE | unix.FAN_UNLIMITED_MARKS
	eventFlags = unix.O_RDONLY | unix.O_LARGEFILE | unix.O_CLOEXEC | unix.O_NONBLOCK
	metaSize   = int(unsafe.Sizeof(unix.FanotifyEventMetadata{}))
)

// group is a fanotify group: the one place that talks to the kernel about it.
type group struct {
	fd int
	// evictable is FAN_MARK_EVICTABLE where the kernel has it (5.19): marks on
	// inodes then do not keep the inodes in memory.
	evictable atomic.Uint32
}

func newGroup() (*group, error) {
	fd, err := unix.FanotifyInit(initFlags, eventFlags)
	switch {
	case errors.Is(err, unix.EPERM):
		return nil, cordon.Errorf(cordon.Unavailable, "", "fanotify is not permitted: the agent needs root with CAP_SYS_ADMIN in the machine's own user namespace")
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		return nil, cordon.Errorf(cordon.Unavailable, "", "this kernel is built without fanotify permission events (CONFIG_FANOTIFY_ACCESS_PERMISSIONS)")
	case err != nil:
		return nil, &cordon.Error{Kind: cordon.Unavailable, Message: "fanotify cannot be used", Err: err}
	}
	g := &group{fd: fd}
	g.evictable.Store(unix.FAN_MARK_EVICTABLE)
	return g, nil
}

// watch asks for a verdict on every execution below path: on its mount, or with
// kind FAN_MARK_FILESYSTEM on its file system in every mount namespace.
func (g *group) watch(kind uint, path string) error {
	return unix.FanotifyMark(g.fd, unix.FAN_MARK_ADD|kind, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, path)
}

// unwatch takes back all marks of a kind. With FAN_MARK_INODE it forgets every
// file that was spared.
func (g *group) unwatch(kind uint) error {
	return unix.FanotifyMark(g.fd, unix.FAN_MARK_FLUSH|kind, 0, unix.AT_FDCWD, "/")
}

// spare makes further executions of the file at fd cost nothing until it is
// changed. The kernel drops an ignored mask by itself when the file is written
// to or truncated, but not when it changes through a shared mapping: for that
// the mark also asks to be told when somebody who could write closes it.
func (g *group) spare(fd int) error {
	evictable := uint(g.evictable.Load())
	err := unix.FanotifyMark(g.fd, unix.FAN_MARK_ADD|evictable, unix.FAN_CLOSE_WRITE, fd, "")
	if errors.Is(err, unix.EINVAL) && evictable != 0 {
		g.evictable.Store(0) // before 5.19
		return g.spare(fd)
	}
	if err != nil {
		return err
	}
	return unix.FanotifyMark(g.fd, unix.FAN_MARK_ADD|unix.FAN_MARK_IGNORED_MASK|evictable, unix.FAN_OPEN_EXEC_PERM, fd, "")
}

// unspare takes back what spare did. A mark that is gone already is fine.
func (g *group) unspare(fd int) {
	_ = unix.FanotifyMark(g.fd, unix.FAN_MARK_REMOVE|unix.FAN_MARK_IGNORED_MASK, unix.FAN_OPEN_EXEC_PERM, fd, "")
	_ = unix.FanotifyMark(g.fd, unix.FAN_MARK_REMOVE, unix.FAN_CLOSE_WRITE, fd, "")
}

// answer writes a verdict. It neither allocates nor blocks.
func (g *group) answer(fd int32, verdict uint32, buf *unix.FanotifyResponse) error {
	buf.Fd, buf.Response = fd, verdict
	_, err := unix.Write(g.fd, (*[unsafe.Sizeof(*buf)]byte)(unsafe.Pointer(buf))[:])
	return err
}

// identify returns what the kernel already knows of the file at fd, without
// asking anybody else: on a network or FUSE file system a fresh answer may
// never come (AT_STATX_DONT_SYNC, statx(2)).
func identify(fd int, st *unix.Statx_t) (cordon.FileID, bool) {
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_BASIC_STATS, st)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return cordon.FileID{}, false
	}
	return cordon.FileID{
		Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino, Size: int64(st.Size),
		Mtime: st.Mtime.Sec*1e9 + int64(st.Mtime.Nsec), Ctime: st.Ctime.Sec*1e9 + int64(st.Ctime.Nsec),
	}, true
}

// written reports whether somebody has the file open for writing, and so may
// change it while it is read. A read lease can be had only if nobody has
// (fcntl(2)); it is given back at once. Where leases are not supported the
// answer is false, and the change times before and after are all there is.
func written(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
	}
	return errors.Is(err, unix.EAGAIN)
}
