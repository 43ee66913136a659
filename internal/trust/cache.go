package trust

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/durable"
	"github.com/cordon-project/cordon/internal/trust/rules"
)

// The cache file holds the entries of the last set, and what is known of file
// contents by identity. In this order, numbers as in [binary.AppendUvarint] and
// [binary.AppendVarint] where nothing else is said:
//
//	magic     8 bytes, with the version of the format
//	origins   their number, then each one's length and bytes
//	entries   their number, then each one's digest (32 bytes), size, number of the origin, role (1 byte)
//	texts     their number, then each one's length and path below Root
//	facts     their number, then each one's five identity numbers (8 bytes each, little-endian),
//	          1 if an MD5 follows or 0, SHA-256 (32 bytes), MD5 (16 bytes)
//	checksum  SHA-256 over all before it
const cacheMagic = "cordonT2"

// maxCache bounds what is read, in bytes. A machine with 5,000 packages needs 2 MB.
const maxCache = 64 << 20

var errCache = errors.New("malformed")

type cache struct {
	entries []cordon.TrustEntry
	texts   []string
	facts   []fact
	sum     cordon.Digest // the checksum
}

// known lists every file whose content is known. NewTrustSet leaves out those
// whose content is not in the set.
func (c *cache) known() []cordon.KnownFile {
	files := make([]cordon.KnownFile, len(c.facts))
	for i, f := range c.facts {
		files[i] = cordon.KnownFile{ID: f.id, Digest: f.sha256}
	}
	return files
}

func (c *cache) encode() []byte {
	b := []byte(cacheMagic)
	var names []string
	numbers := map[string]int{}
	for _, e := range c.entries {
		if _, ok := numbers[e.Origin]; !ok {
			numbers[e.Origin] = len(names)
			names = append(names, e.Origin)
		}
	}
	b = appendStrings(b, names)
	b = binary.AppendUvarint(b, uint64(len(c.entries)))
	for _, e := range c.entries {
		b = append(b, e.Digest[:]...)
		b = binary.AppendVarint(b, e.Size)
		b = binary.AppendUvarint(b, uint64(numbers[e.Origin]))
		b = append(b, byte(e.Role))
	}
	b = appendStrings(b, c.texts)
	b = binary.AppendUvarint(b, uint64(len(c.facts)))
	for _, f := range c.facts {
		for _, v := range [...]uint64{f.id.Dev, f.id.Ino, uint64(f.id.Size), uint64(f.id.Mtime), uint64(f.id.Ctime)} {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
		if f.hasMD5 {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
		b = append(b, f.sha256[:]...)
		if f.hasMD5 {
			b = append(b, f.md5[:]...)
		}
	}
	c.sum = sha256.Sum256(b)
	return append(b, c.sum[:]...)
}

func appendStrings(b []byte, all []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(all)))
	for _, s := range all {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

// decodeCache reads what encode wrote. Whatever else it is given is an error.
func decodeCache(b []byte) (*cache, error) {
	if len(b) < len(cacheMagic)+sha256.Size || string(b[:len(cacheMagic)]) != cacheMagic {
		return nil, errors.New("not a trust cache of this version")
	}
	c := &cache{}
	body := b[:len(b)-sha256.Size]
	copy(c.sum[:], b[len(body):])
	if sha256.Sum256(body) != c.sum {
		return nil, errors.New("its checksum does not hold")
	}
	r := &reader{b: body[len(cacheMagic):]}
	names := r.strings()
	c.entries = make([]cordon.TrustEntry, r.count(sha256.Size+3))
	for i := range c.entries {
		e := &c.entries[i]
		copy(e.Digest[:], r.take(sha256.Size))
		e.Size = r.varint()
		if n := r.uvarint(); n < uint64(len(names)) {
			e.Origin = names[n]
		} else {
			r.bad = true
		}
		e.Role = cordon.Role(r.take(1)[0])
		r.bad = r.bad || !e.Role.Known()
	}
	c.texts = r.strings()
	c.facts = make([]fact, r.count(5*8+1+sha256.Size))
	for i := range c.facts {
		f := &c.facts[i]
		f.id = cordon.FileID{Dev: r.uint64(), Ino: r.uint64(), Size: int64(r.uint64()), Mtime: int64(r.uint64()), Ctime: int64(r.uint64())}
		flag := r.take(1)
		f.hasMD5 = flag[0] == 1
		r.bad = r.bad || flag[0] > 1
		copy(f.sha256[:], r.take(sha256.Size))
		if f.hasMD5 {
			copy(f.md5[:], r.take(len(f.md5)))
		}
	}
	if r.bad || len(r.b) > 0 {
		return nil, errCache
	}
	return c, nil
}

// reader takes a byte slice apart; what is not there reads as zero and makes it bad.
type reader struct {
	b   []byte
	bad bool
}

var zeros [64]byte

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return zeros[:min(n, len(zeros))]
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) uint64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

// count reads how many elements of at least size bytes follow. More than there
// is room for is bad, and never allocated.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/size) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) strings() []string {
	all := make([]string, r.count(1))
	for i := range all {
		all[i] = string(r.take(r.count(1)))
	}
	return all
}

// readCache returns the cache, nil if there is none that can be used. A cache
// that cannot be used costs time, so it is never an error.
func (b *Builder) readCache() *cache {
	if b.CacheFile == "" {
		return nil
	}
	c, err := loadCache(b.CacheFile)
	if err == nil {
		return c
	}
	if !errors.Is(err, fs.ErrNotExist) {
		b.log().Warn("trust cache not used, every program is hashed again", "file", b.CacheFile, "reason", err.Error())
	}
	return nil
}

func loadCache(path string) (*cache, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("fstat: %w", err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, errors.New("not a regular file")
	case rules.Weak(&st) != "":
		return nil, errors.New(rules.Weak(&st))
	case st.Size > maxCache:
		return nil, fmt.Errorf("has %d bytes", st.Size)
	}
	buf := make([]byte, st.Size)
	if n, err := f.ReadAt(buf, 0); n < len(buf) {
		return nil, fmt.Errorf("read: %w", err)
	}
	return decodeCache(buf)
}

// writeCache keeps the results. Failing that costs time at the next start, so it
// is only logged.
func (b *Builder) writeCache(c cache) {
	if b.CacheFile == "" {
		return
	}
	content := c.encode()
	if c.sum == b.written {
		return
	}
	if err := durable.Replace(b.CacheFile, content, 0o600); err != nil {
		b.log().Warn("trust cache not written, the next start hashes every program again", "file", b.CacheFile, "reason", err.Error())
		return
	}
	b.written = c.sum
}

func compareID(a, b cordon.FileID) int {
	return cmp.Or(cmp.Compare(a.Dev, b.Dev), cmp.Compare(a.Ino, b.Ino), cmp.Compare(a.Size, b.Size),
		cmp.Compare(a.Mtime, b.Mtime), cmp.Compare(a.Ctime, b.Ctime))
}
