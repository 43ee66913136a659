package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Reserve is room that is kept on a disk for what must not fail where the disk is
// full. It is a file that takes up the room until it is needed. The zero value
// keeps none. Spend may be called by several goroutines.
type Reserve struct {
	path string
	mu   sync.Mutex // held while the room is given away
}

// Sizes of a reserve in bytes: what is asked for, and the least that is kept where there is not so much.
const (
	reserveSize  = 1 << 20
	reserveLeast = 1 << 14
)

// Keep keeps room by the file at path, which may be there already. It is called
// once, before Spend. An error says that there is none now; Spend tries again.
func (r *Reserve) Keep(path string) error {
	r.path = path
	return r.fill()
}

// Spend calls f. If that fails because the disk is full (ENOSPC, EDQUOT), it calls
// it once more with the room of the reserve, and then keeps what is left of that.
func (r *Reserve) Spend(f func() error) error {
	err := f()
	if r.path == "" || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if none := os.Remove(r.path); none != nil && !errors.Is(none, fs.ErrNotExist) {
		return errors.Join(err, none)
	}
	if dir, err := os.Open(filepath.Dir(r.path)); err == nil {
		_ = errors.Join(dir.Sync(), dir.Close()) // some file systems give the room away only then
	}
	err = f()
	_ = r.fill() // later again
	return err
}

// fill takes up as much room as there is, up to reserveSize.
func (r *Reserve) fill() error {
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep room on the disk: %w", err)
	}
	for size := int64(reserveSize); size >= reserveLeast; size /= 2 {
		if err = unix.Fallocate(int(f.Fd()), 0, 0, size); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
			break
		}
		_ = f.Truncate(0) // what was taken up before it failed
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("keep room on the disk: %w", err)
	}
	return nil
}
