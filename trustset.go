package cordon

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"iter"
	"slices"
)

// Digest is the SHA-256 of a file's content.
type Digest [sha256.Size]byte

// String returns the digest in lower-case hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// FileID is what a file system says of a file that changes whenever its
// content may have changed: device, inode, size, and both times in nanoseconds.
// It is a cache key, never the truth: only a [Digest] is.
type FileID struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime int64
}

// TrustEntry is one file content that may run, and where the trust comes from.
type TrustEntry struct {
	Digest Digest
	Size   int64  // of the content in bytes; -1: not known (a rule that gives a digest only)
	Origin string // dpkg:coreutils, rpm:bash, rule:tools.rules:3, cordon
	Role   Role   // whether it runs programs of others
}

// KnownFile binds a file on disk, as it was when it was hashed, to its content.
type KnownFile struct {
	ID     FileID
	Digest Digest
}

// TrustSet is the set of file contents that may run while a machine is
// restricted. It is immutable, and its methods neither allocate nor block, so
// that an enforcer may call them while a program waits for its verdict.
type TrustSet struct {
	entries []TrustEntry // sorted by digest, no digest twice
	files   []KnownFile  // sorted by id
	sizes   []int64      // sorted
	anySize bool
	version Digest
}

// NewTrustSet compiles a trust set. It keeps neither slice. Files whose digest
// is in no entry are left out; of several entries with one digest the first wins,
// with the highest of their roles.
func NewTrustSet(entries []TrustEntry, files []KnownFile) *TrustSet {
	s := &TrustSet{entries: slices.Clone(entries)}
	slices.SortStableFunc(s.entries, func(a, b TrustEntry) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
	for i := len(s.entries) - 1; i > 0; i-- {
		if e, before := s.entries[i], &s.entries[i-1]; e.Digest == before.Digest {
			before.Role = max(before.Role, e.Role)
		}
	}
	s.entries = slices.Clip(slices.CompactFunc(s.entries, func(a, b TrustEntry) bool { return a.Digest == b.Digest }))
	h := sha256.New()
	for _, e := range s.entries {
		h.Write(e.Digest[:])
		if e.Role != NoRole {
			h.Write([]byte{byte(e.Role)})
		}
		if e.Size < 0 {
			s.anySize = true
		} else {
			s.sizes = append(s.sizes, e.Size)
		}
	}
	h.Sum(s.version[:0])
	slices.Sort(s.sizes)
	s.sizes = slices.Clip(slices.Compact(s.sizes))
	s.files = make([]KnownFile, 0, len(files))
	for _, f := range files {
		if s.Contains(f.Digest) {
			s.files = append(s.files, f)
		}
	}
	slices.SortStableFunc(s.files, func(a, b KnownFile) int { return compareID(a.ID, b.ID) })
	s.files = slices.CompactFunc(s.files, func(a, b KnownFile) bool { return a.ID == b.ID })
	return s
}

func compareID(a, b FileID) int {
	var x, y [40]byte
	a.put(&x)
	b.put(&y)
	return bytes.Compare(x[:], y[:])
}

func (id FileID) put(b *[40]byte) {
	binary.BigEndian.PutUint64(b[0:], id.Ino)
	binary.BigEndian.PutUint64(b[8:], id.Dev)
	binary.BigEndian.PutUint64(b[16:], uint64(id.Size))
	binary.BigEndian.PutUint64(b[24:], uint64(id.Mtime))
	binary.BigEndian.PutUint64(b[32:], uint64(id.Ctime))
}

// Contains reports whether the content may run.
func (s *TrustSet) Contains(d Digest) bool { return s.find(d) >= 0 }

func (s *TrustSet) find(d Digest) int {
	i, ok := slices.BinarySearchFunc(s.entries, d, func(e TrustEntry, d Digest) int { return bytes.Compare(e.Digest[:], d[:]) })
	if !ok {
		return -1
	}
	return i
}

// Origin returns where the trust in a content comes from.
func (s *TrustSet) Origin(d Digest) (string, bool) {
	if i := s.find(d); i >= 0 {
		return s.entries[i].Origin, true
	}
	return "", false
}

// MayHaveSize reports whether any trusted content has this size. A file for
// which it is false cannot be trusted, so nobody needs to read it.
func (s *TrustSet) MayHaveSize(size int64) bool {
	if s.anySize {
		return true
	}
	_, ok := slices.BinarySearch(s.sizes, size)
	return ok
}

// Knows reports whether a file with exactly this identity was hashed and found
// trusted when the set was built.
func (s *TrustSet) Knows(id FileID) bool {
	_, ok := slices.BinarySearchFunc(s.files, id, func(f KnownFile, id FileID) int { return compareID(f.ID, id) })
	return ok
}

// Entries returns the entries in order of their digests.
func (s *TrustSet) Entries() iter.Seq[TrustEntry] { return slices.Values(s.entries) }

// Covers reports whether everything that may run under other may run under s.
func (s *TrustSet) Covers(other *TrustSet) bool {
	return !slices.ContainsFunc(other.entries, func(e TrustEntry) bool { return !s.Contains(e.Digest) })
}

// Len returns the number of trusted contents.
func (s *TrustSet) Len() int { return len(s.entries) }

// Version identifies the set: SHA-256 over its digests in order, each with its
// role if it has one.
func (s *TrustSet) Version() Digest { return s.version }

// With returns the set with more entries in it. The identities that it knows
// stay known.
func (s *TrustSet) With(more ...TrustEntry) *TrustSet {
	return NewTrustSet(append(slices.Clone(s.entries), more...), s.files)
}
