// Package mount reads what is mounted, and opens files without being led elsewhere
// by names: who watches over a machine neither waits for a file system that does
// not answer, nor believes what somebody has mounted over a path.
package mount

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is a line of proc_pid_mountinfo(5).
type Mount struct {
	ID           uint64 // nobody else's while somebody has a file there open
	Major, Minor uint32 // of the file system: those of its device, if it is on one that the kernel tells of
	Point        string // where it is, as this process sees it
	Type         string // like ext4
}

// Number is how sysfs calls the device.
func (m Mount) Number() string { return fmt.Sprintf("%d:%d", m.Major, m.Minor) }

// Table returns what is mounted where this process sees it, in the order in which
// that was done: the last of one place is on top.
func Table() ([]Mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mount table: %w", err)
	}
	return Parse(string(text))
}

// Parse reads such a table. A line that is not understood is an error.
func Parse(mountinfo string) ([]Mount, error) {
	var all []Mount
	for line := range strings.Lines(mountinfo) {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		fields := strings.Fields(before)
		fstype, _, named := strings.Cut(after, " ")
		if !ok || len(fields) < 6 || !named || fstype == "" {
			return nil, fmt.Errorf("read mount table: line %q is not understood", line)
		}
		major, minor, _ := strings.Cut(fields[2], ":")
		id, err := strconv.ParseUint(fields[0], 10, 64)
		ma, err1 := strconv.ParseUint(major, 10, 32)
		mi, err2 := strconv.ParseUint(minor, 10, 32)
		if err := errors.Join(err, err1, err2); err != nil {
			return nil, fmt.Errorf("read mount table: %w", err)
		}
		all = append(all, Mount{id, uint32(ma), uint32(mi), unescape(fields[4]), fstype})
	}
	return all, nil
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

// Of returns which of the mounts in a table has the file at an absolute path, if
// there are no links on the way.
func Of(table []Mount, path string) (of Mount, ok bool) {
	for _, m := range table {
		if strings.HasPrefix(path, strings.TrimSuffix(m.Point, "/")+"/") && len(m.Point) >= len(of.Point) {
			of, ok = m, true
		}
	}
	return of, ok
}

// Open opens the regular file at path for reading, which is on the mount m and has
// most bytes at most. It goes name by name, and asks no other file system for
// anything: openat2(2) would do it, but what keeps a service from making setuid
// files (RestrictSUIDSGID of systemd.exec(5)) refuses that.
func (m Mount) Open(path string, most uint64) (*os.File, error) {
	fd, err := m.open(path, most)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (m Mount) open(path string, most uint64) (int, error) {
	at, err := unix.Open(m.Point, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(at) }() // only a name
	var mount, st unix.Statx_t
	look := func(st *unix.Statx_t) error {
		return unix.Statx(at, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_SIZE|unix.STATX_MNT_ID, st)
	}
	if err := look(&mount); err != nil {
		return -1, err
	}
	for name := range strings.SplitSeq(strings.Trim(strings.TrimPrefix(path, m.Point), "/"), "/") {
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return -1, err
		}
		_ = unix.Close(at) // only a name
		at = next
		if err := look(&st); err != nil {
			return -1, err
		}
		if kind := st.Mode & unix.S_IFMT; name == ".." || st.Mnt_id != mount.Mnt_id || kind != unix.S_IFDIR && kind != unix.S_IFREG {
			return -1, errors.New("it is not where it was")
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > most {
		return -1, fmt.Errorf("it is no regular file of up to %d bytes", most)
	}
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", at), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
}

// ID returns the [Mount.ID] of the mount that an open file was reached by.
func ID(f *os.File) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return 0, &os.PathError{Op: "statx", Path: f.Name(), Err: err}
	}
	return st.Mnt_id, nil
}

// Fresh opens a file system that the kernel fills, proc or sysfs, mounted for this
// alone and nowhere: over parts of those that everybody sees, somebody may have
// mounted something else.
func Fresh(fstype string) (*os.Root, error) {
	fd, err := Detached(fstype)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(fd), fstype)
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err == nil {
		if err = same(dir, root); err != nil {
			err = errors.Join(err, root.Close())
		}
	}
	if err = errors.Join(err, dir.Close()); err != nil {
		return nil, fmt.Errorf("look into %s: %w", fstype, err)
	}
	return root, nil
}

// same is an error if what was opened by a name in /proc is elsewhere.
func same(dir *os.File, root *os.Root) error {
	top, err := root.Open(".")
	if err != nil {
		return err
	}
	is, err := ID(top)
	want, err2 := ID(dir)
	if err = errors.Join(err, err2, top.Close()); err == nil && is != want {
		err = errors.New("something else is mounted over a part of /proc")
	}
	return err
}

// Detached returns the root of a file system that is mounted nowhere (fsmount(2)),
// so that nobody finds it, or mounts something over it.
func Detached(fstype string) (int, error) {
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
