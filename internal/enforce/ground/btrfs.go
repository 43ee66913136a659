package ground

import (
	"errors"
	"fmt"
	"os"
	"path"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/enforce/mount"
)

// identified are btrfs that were asked what they are called. They are held open: as
// long as they are, the ids of their mounts are nobody else's.
type identified struct {
	fsid map[uint64]string // by the ids of mounts
	held []*os.File
}

// Close lets go of them.
func (i *identified) Close() (err error) {
	for _, f := range i.held {
		err = errors.Join(err, f.Close())
	}
	return err
}

// identify asks each btrfs in a table by one of its mounts that can be reached. What
// is found at a path may be another mount, of whatever, if the table has changed: the
// answer is put down to the mount that has given it.
func identify(table []mount.Mount) *identified {
	i := &identified{fsid: make(map[uint64]string)}
	done := make(map[uint32]bool)
	for _, m := range table {
		if m.Type != "btrfs" || done[Device(m)] || !reached(table, m) {
			continue
		}
		f, err := os.OpenFile(m.Point, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			continue // who is not asked is not relied on
		}
		i.held = append(i.held, f)
		id, err := mount.ID(f)
		if err != nil {
			continue
		}
		if fsid, err := fsidOf(f); err == nil {
			i.fsid[id] = fsid
			done[Device(m)] = id == m.ID
		}
	}
	return i
}

// reached says whether a mount is what is found at its path, and nothing on the way
// there could keep who looks waiting, like a network, or FUSE, which any user can mount.
func reached(table []mount.Mount, m mount.Mount) bool {
	for at := m.Point; ; at = path.Dir(at) {
		on, ok := mount.Of(table, path.Join(at, "x"))
		if !ok || !Keeps(on.Type) && on.Type != "overlay" || at == m.Point && on.ID != m.ID {
			return false
		}
		if at == "/" {
			return true
		}
	}
}

// info is struct btrfs_ioctl_fs_info_args of linux/btrfs.h.
type info struct {
	_    [2]uint64 // the largest id of a device, and how many there are
	fsid [16]byte
	_    [1024 - 32]byte
}

// fsInfo is BTRFS_IOC_FS_INFO.
const fsInfo = 2<<30 | unsafe.Sizeof(info{})<<16 | 0x94<<8 | 31

// fsidOf asks the btrfs that has a file what it is called in sysfs.
func fsidOf(f *os.File) (string, error) {
	var a info
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsInfo, uintptr(unsafe.Pointer(&a))); errno != 0 {
		return "", &os.PathError{Op: "ask", Path: f.Name(), Err: errno}
	}
	id := a.fsid
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]), nil
}
