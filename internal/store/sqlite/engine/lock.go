package engine

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/cordon-project/cordon"
)

// lock keeps other processes out of the database at path, for as long as the
// file that it returns is open: SQLite would let them in, but the writer relies on
// being alone. The kernel drops the lock when the process ends, however it
// does (flock(2)); the lock file itself stays, since to remove it would be a race.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path+"-lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file of the database: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder := "another process"
		pid := make([]byte, 20)
		if n, _ := f.ReadAt(pid, 0); n > 0 { // only to say it
			holder += " (" + strings.TrimSpace(string(pid[:n])) + ")"
		}
		return nil, errors.Join(cordon.Errorf(cordon.Unavailable, "", "The database %s is in use by %s. Stop that first, or use another data directory", path, holder), f.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	if f.Truncate(0) == nil {
		_, _ = fmt.Fprintf(f, "process %d\n", os.Getpid()) // for people; where the disk is full, the lock holds all the same
	}
	return f, nil
}
