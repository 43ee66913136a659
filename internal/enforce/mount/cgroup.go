package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// rootIno is the inode number of the root of the hierarchy of cgroups; what
// another cgroup namespace calls its root has another one.
const rootIno = 1

// Cgroups opens the root of the hierarchy of cgroups, version 2, be it mounted or not.
func Cgroups() (*os.File, error) {
	table, err := Table()
	if err != nil {
		return nil, fmt.Errorf("find the root of all cgroups: %w", err)
	}
	for _, m := range table {
		if m.Type != "cgroup2" {
			continue
		}
		if f, err := os.Open(m.Point); err == nil {
			if isCgroupRoot(f) {
				return f, nil
			}
			_ = f.Close() // only looked at
		}
	}
	// Mounted for this alone, and nowhere. Not at once: it would reset the options of a mount that there is.
	fd, err := Detached("cgroup2")
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
