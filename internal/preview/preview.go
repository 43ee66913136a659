// Package preview finds out what runs on this machine now and would be refused
// if it were started under a restriction.
//
// It reads /proc and the files that processes run, through the kernel's own
// links to them, so that a path which was replaced, deleted, or lies in another
// mount namespace does not mislead it. It starts no program, waits for no
// network or FUSE file system, and its work in one scan is bounded; what it had no time for
// is told without a digest. It owns nothing but a cache of digests.
package preview

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/fileid"
)

// Bounds of a scan.
const (
	maxBytes  = 1 << 30 // read in one scan
	maxFiles  = 8 << 10 // distinct files looked at
	maxMapped = 4 << 10 // executable mappings of one process
	maxCached = 4 << 10 // digests remembered
)

// Scanner scans. Make one with a composite literal; it must not be copied.
type Scanner struct {
	Proc string // /proc
	// Mapped: executable mappings (libraries) are judged too, not only programs.
	Mapped bool
	// Within reports whether a restriction concerns the file at path.
	Within func(path string) bool
	// Owner names the package that brought a file of this path, "" for none.
	Owner func(path string) string

	mu    sync.Mutex // one scan at a time; guards cache
	cache map[cordon.FileID]cordon.Digest
}

// scan is one scan.
type scan struct {
	*Scanner
	set    *cordon.TrustSet
	now    time.Time
	budget int64
	seen   map[cordon.FileID]*cordon.Finding // nil: trusted, or of no concern
	found  []*cordon.Finding
	remote map[string]map[uint64]bool // by mount namespace: devices on network and FUSE file systems
	buf    []byte
}

// Scan returns the files that would be refused under set, most processes first,
// at most [cordon.MaxFindings], and the number of uses by processes of all of them.
func (s *Scanner) Scan(ctx context.Context, set *cordon.TrustSet) ([]cordon.Finding, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cache == nil {
		s.cache = make(map[cordon.FileID]cordon.Digest)
	}
	c := &scan{Scanner: s, set: set, now: time.Now(), budget: maxBytes, seen: make(map[cordon.FileID]*cordon.Finding), remote: make(map[string]map[uint64]bool), buf: make([]byte, 128<<10)}
	proc, err := os.Open(s.Proc)
	if err != nil {
		return nil, 0, fmt.Errorf("list processes: %w", err)
	}
	names, err := proc.Readdirnames(-1)
	_ = proc.Close() // only read
	if err != nil {
		return nil, 0, fmt.Errorf("list processes: %w", err)
	}
	for _, name := range names {
		if _, err := strconv.Atoi(name); err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		c.process(filepath.Join(s.Proc, name))
	}
	slices.SortStableFunc(c.found, func(a, b *cordon.Finding) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Path, b.Path))
	})
	files, total := []cordon.Finding{}, uint64(0)
	for i, f := range c.found {
		if total += f.Count; i < cordon.MaxFindings {
			files = append(files, *f)
		}
	}
	return files, total, nil
}

// process looks at what one process runs. It may end at any moment.
func (c *scan) process(dir string) {
	links := []string{filepath.Join(dir, "exe")}
	if c.Mapped {
		links = append(links, mappings(dir)...)
	}
	mine := make(map[cordon.FileID]bool)
	for _, link := range links {
		c.file(dir, link, mine)
	}
}

// mappings returns the kernel's links to the files that a process has mapped
// executable, and no more than maxMapped. A process can make this file hundreds of
// megabytes long.
func mappings(dir string) (links []string) {
	maps, err := os.Open(filepath.Join(dir, "maps"))
	if err != nil {
		return nil
	}
	defer func() { _ = maps.Close() }() // only read
	for lines := bufio.NewScanner(maps); len(links) < maxMapped && lines.Scan(); {
		f := bytes.Fields(lines.Bytes()) // address perms offset dev inode path
		if len(f) >= 6 && len(f[1]) == 4 && f[1][2] == 'x' && string(f[4]) != "0" {
			links = append(links, filepath.Join(dir, "map_files", string(f[0])))
		}
	}
	return links
}

// file looks at one file. mine are those that the process was counted for.
func (c *scan) file(dir, link string, mine map[cordon.FileID]bool) {
	fd, err := unix.Open(link, unix.O_PATH|unix.O_CLOEXEC, 0) // touches no file system
	if err != nil {
		return // a thread of the kernel, or it has ended
	}
	defer func() { _ = unix.Close(fd) }() // only read
	var st unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_BASIC_STATS, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	id := cordon.FileID{
		Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino, Size: int64(st.Size),
		Mtime: st.Mtime.Sec*1e9 + int64(st.Mtime.Nsec), Ctime: st.Ctime.Sec*1e9 + int64(st.Ctime.Nsec),
	}
	if mine[id] {
		return
	}
	mine[id] = true
	f, known := c.seen[id]
	if !known {
		if len(c.seen) >= maxFiles {
			return
		}
		f = c.judge(dir, fd, link, id)
		c.seen[id] = f
		if f != nil {
			c.found = append(c.found, f)
		}
	}
	if f != nil {
		f.Count++
	}
}

// judge returns nil for a file that may run or is of no concern.
func (c *scan) judge(dir string, fd int, link string, id cordon.FileID) *cordon.Finding {
	path, err := os.Readlink(link)
	if err != nil || !c.Within(strings.TrimSuffix(path, " (deleted)")) || c.set.Knows(id) {
		return nil
	}
	f := &cordon.Finding{Path: cordon.PlainName(path), Owner: cordon.PlainName(c.Owner(path)), First: c.now.UTC(), Last: c.now.UTC()}
	if c.isRemote(dir, id.Dev) {
		f.Reason = "it is on a network or FUSE file system"
		return f
	}
	digest, ok := c.cache[id]
	if !ok {
		if digest, ok = c.read(fd, id); !ok {
			f.Reason = "it was not examined"
			return f
		}
		if fileid.Settled(id, c.now) {
			if len(c.cache) >= maxCached {
				clear(c.cache)
			}
			c.cache[id] = digest
		}
	}
	if c.set.Contains(digest) {
		return nil
	}
	f.SHA256, f.Reason = digest.String(), "it is not in the trust set"
	return f
}

func (c *scan) read(path int, id cordon.FileID) (d cordon.Digest, ok bool) {
	if c.budget -= id.Size; c.budget < 0 {
		return d, false
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(path), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return d, false
	}
	defer func() { _ = unix.Close(fd) }() // only read
	sum := sha256.New()
	for off := int64(0); off <= id.Size; {
		n, err := unix.Pread(fd, c.buf, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return d, false
		}
		if n == 0 {
			sum.Sum(d[:0])
			return d, true
		}
		sum.Write(c.buf[:n])
		off += int64(n)
	}
	return d, false // it grew meanwhile
}

// remoteTypes are file systems on which somebody else answers, who may never do so.
var remoteTypes = []string{"nfs", "cifs", "smb", "fuse", "9p", "ceph", "afs", "virtiofs", "ocfs2", "gfs2", "lustre"}

func (c *scan) isRemote(dir string, dev uint64) bool {
	ns, err := os.Readlink(filepath.Join(dir, "ns", "mnt"))
	if err != nil {
		return true // it has ended; not known is not touched
	}
	if c.remote[ns] == nil {
		c.remote[ns] = make(map[uint64]bool)
		f, err := os.Open(filepath.Join(dir, "mountinfo"))
		if err != nil {
			delete(c.remote, ns)
			return true
		}
		defer func() { _ = f.Close() }() // only read
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			before, after, _ := strings.Cut(lines.Text(), " - ")
			fields := strings.Fields(before)
			if len(fields) < 3 {
				continue
			}
			var major, minor uint32
			if _, err := fmt.Sscanf(fields[2], "%d:%d", &major, &minor); err == nil &&
				slices.ContainsFunc(remoteTypes, func(t string) bool { return strings.HasPrefix(after, t) }) {
				c.remote[ns][unix.Mkdev(major, minor)] = true
			}
		}
		if lines.Err() != nil { // a line of any length can be had with an overlay of many layers
			delete(c.remote, ns)
			return true
		}
	}
	return c.remote[ns][dev]
}
