// Package fileid says which file a descriptor is, and what it holds.
//
// It owns the one mapping from stat(2) to [cordon.FileID], so that whoever
// builds a trust set and whoever judges a program by it mean the same thing,
// and the reading of a file's content without trusting that it holds still.
//
// It promises to read in pieces of a fixed size, whatever the file's size, and
// never to wait for a FIFO or a device. A [Hasher] belongs to one goroutine.
package fileid

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

// Settle is how long ago a file must have changed before its identity proves
// anything about its content. Linux stamps ctime from a clock that moves once
// per tick (1 to 10 ms; file systems may round it further, up to a second):
// two writes within one step leave the same identity with different content.
// A file changed longer ago than this gets another ctime by its next write.
const Settle = 2 * time.Second

// Settled reports whether the identity of a file, as it is now, cannot stay the
// same over a later change. A change time that lies in the future, because the
// clock was set back, is as good as one in the past: the next change is stamped
// with the time of that change.
func Settled(id cordon.FileID, now time.Time) bool {
	return now.Sub(time.Unix(0, id.Ctime)).Abs() >= Settle
}

var (
	// ErrNotRegular says that there is something at the path, but no regular file.
	ErrNotRegular = errors.New("not a regular file")
	// ErrUnstable says that a file was changed or replaced while it was read, twice.
	ErrUnstable = errors.New("the file was replaced while hashing")
)

// FromStat returns the identity that stat(2), lstat(2) or fstat(2) reports.
func FromStat(st *unix.Stat_t) cordon.FileID {
	return cordon.FileID{
		Dev:   uint64(st.Dev),
		Ino:   st.Ino,
		Size:  st.Size,
		Mtime: st.Mtim.Nano(),
		Ctime: st.Ctim.Nano(),
	}
}

// Of returns the identity of the regular file behind an open descriptor, or an
// error that wraps [ErrNotRegular].
func Of(fd int) (cordon.FileID, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return cordon.FileID{}, fmt.Errorf("fstat: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return cordon.FileID{}, ErrNotRegular
	}
	return FromStat(&st), nil
}

// Open opens a regular file for reading and returns its descriptor, which the
// caller closes. A symbolic link as the last component is not followed.
func Open(path string) (int, error) {
	var fd int
	err := retry(func() (err error) {
		// O_NONBLOCK: opening a FIFO would wait for a writer that never comes.
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return -1, ErrNotRegular
	}
	if err != nil {
		return -1, err
	}
	if _, err := Of(fd); err != nil {
		_ = unix.Close(fd) // only read
		return -1, err
	}
	return fd, nil
}

// Sum is the content of one file, as it was while ID held.
type Sum struct {
	ID     cordon.FileID
	SHA256 cordon.Digest
	MD5    [md5.Size]byte // zero unless asked for
	// Young: the file had not [Settled] when it was read. The digests are right, but
	// ID must not be remembered for them.
	Young bool
}

// Hasher computes sums with one buffer that it keeps.
type Hasher struct {
	// Pause is called after every piece, of at most 128 KiB, that was read and hashed.
	Pause func()

	now func() time.Time
	buf []byte
	sha hash.Hash
	md5 hash.Hash
}

// NewHasher returns a hasher that takes the time from now, which must be the
// wall clock that the kernel stamps files with; nil means time.Now.
func NewHasher(now func() time.Time) *Hasher {
	if now == nil {
		now = time.Now
	}
	return &Hasher{now: now, buf: make([]byte, 128<<10), sha: sha256.New(), md5: md5.New(), Pause: func() {}}
}

// Sum reads the file at path once for its SHA-256, and its MD5 if withMD5. When
// the file changed meanwhile, also by a rename over it, it reads again once and
// then gives up with an error that wraps [ErrUnstable].
func (h *Hasher) Sum(ctx context.Context, path string, withMD5 bool) (Sum, error) {
	for range 2 {
		s, err := h.once(ctx, path, withMD5)
		if !errors.Is(err, ErrUnstable) {
			return s, err
		}
	}
	return Sum{}, ErrUnstable
}

func (h *Hasher) once(ctx context.Context, path string, withMD5 bool) (Sum, error) {
	fd, err := Open(path)
	if err != nil {
		return Sum{}, err
	}
	defer func() { _ = unix.Close(fd) }() // only read
	began := h.now()
	s, err := h.read(ctx, fd, withMD5)
	if err != nil {
		return Sum{}, err
	}
	// The descriptor has held still. What the path names must still be that file,
	// else the sum would be kept for something that nobody can start any more.
	var st unix.Stat_t
	if err := retry(func() error { return unix.Lstat(path, &st) }); err != nil || FromStat(&st) != s.ID {
		return Sum{}, ErrUnstable
	}
	s.Young = !Settled(s.ID, began)
	return s, nil
}

func (h *Hasher) read(ctx context.Context, fd int, withMD5 bool) (Sum, error) {
	before, err := Of(fd)
	if err != nil {
		return Sum{}, err
	}
	h.sha.Reset()
	h.md5.Reset()
	for {
		if err := ctx.Err(); err != nil {
			return Sum{}, err
		}
		var n int
		err := retry(func() (err error) { n, err = unix.Read(fd, h.buf); return err })
		if err != nil {
			return Sum{}, fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			break
		}
		h.sha.Write(h.buf[:n])
		if withMD5 {
			h.md5.Write(h.buf[:n])
		}
		h.Pause()
	}
	after, err := Of(fd)
	if err != nil {
		return Sum{}, err
	}
	if after != before {
		return Sum{}, ErrUnstable
	}
	s := Sum{ID: after}
	h.sha.Sum(s.SHA256[:0])
	if withMD5 {
		h.md5.Sum(s.MD5[:0])
	}
	return s, nil
}

// Magic reports whether the file at path begins with the given bytes. A file
// that cannot be opened or is shorter does not.
func Magic(path, magic string) bool {
	fd, err := Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }() // only read
	buf := make([]byte, len(magic))
	n, err := unix.Pread(fd, buf, 0)
	return err == nil && string(buf[:n]) == magic
}

// Resolve follows the symbolic links in an absolute path as if root were /, and
// returns the path below root without links. Every directory on the way is
// passed to through, if that is set; an error from it ends the walk. What is not
// there gives an error that wraps fs.ErrNotExist. Every error is an
// [fs.PathError] that names the place below root, but those of through.
func Resolve(root, path string, through func(dir string, st *unix.Stat_t) error) (string, error) {
	const maxLinks = 40 // as in the kernel (path_resolution(7))
	var st unix.Stat_t
	lstat := func(at string) error {
		err := retry(func() error { return unix.Lstat(filepath.Join(root, at), &st) })
		if err != nil {
			return &fs.PathError{Op: "lstat", Path: at, Err: err}
		}
		return nil
	}
	left := parts(path)
	at, links := "/", 0
	if err := lstat(at); err != nil {
		return "", err
	}
	for len(left) > 0 {
		if through != nil {
			if err := through(at, &st); err != nil {
				return "", err
			}
		}
		next := filepath.Join(at, left[0])
		left = left[1:]
		if err := lstat(next); err != nil {
			return "", err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "follow", Path: path, Err: unix.ELOOP}
		}
		target, err := os.Readlink(filepath.Join(root, next))
		if err != nil {
			return "", &fs.PathError{Op: "readlink", Path: next, Err: err}
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		left = append(parts(target), left...)
		if err := lstat(at); err != nil {
			return "", err
		}
	}
	return at, nil
}

func parts(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
}

// retry repeats a system call that a signal has interrupted; the Go runtime
// sends itself signals all the time.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
