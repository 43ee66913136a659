package rpm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strings"
)

// The tags of a package header that matter here (rpmtag.h).
const (
	tagName           = 1000
	tagOldFileNames   = 1027 // full paths; before rpm 4
	tagFileSizes      = 1028
	tagFileStates     = 1029
	tagFileModes      = 1030
	tagFileDigests    = 1035
	tagFileFlags      = 1037
	tagDirIndexes     = 1116
	tagBaseNames      = 1117
	tagDirNames       = 1118
	tagLongFileSizes  = 5008 // instead of tagFileSizes from 4 GiB on
	tagFileDigestAlgo = 5011
)

// The types of a tag's data, and how many bytes one element takes; strings end
// with a NUL.
const (
	typeChar        = 1
	typeInt8        = 2
	typeInt16       = 3
	typeInt32       = 4
	typeInt64       = 5
	typeString      = 6
	typeStringArray = 8
)

var width = [...]int{typeChar: 1, typeInt8: 1, typeInt16: 2, typeInt32: 4, typeInt64: 8}

// File flags (rpmfiles.h): a ghost is owned by the package but not brought by it.
const (
	flagConfig = 1 << 0
	flagGhost  = 1 << 6
)

const (
	modeType    = 0o170000
	modeRegular = 0o100000
)

// field is one tag of a header.
type field struct {
	typ, count int
	data       []byte // from the tag's data to the end of the store
}

type header map[int]field

// parseHeader reads a header as the database keeps it: the number of index
// entries and the size of the store, both big-endian, then the entries of tag,
// type, offset and count, then the store. Entries may come in any order and
// beyond the immutable region; a tag that comes twice counts as the last one,
// as in rpm.
func parseHeader(b []byte) (header, error) {
	const intro, entry = 8, 16
	if len(b) < intro {
		return nil, errors.New("shorter than its introduction")
	}
	il, dl := int64(binary.BigEndian.Uint32(b)), int64(binary.BigEndian.Uint32(b[4:]))
	if il == 0 || il > maxHeader/entry || dl > maxHeader || intro+il*entry+dl != int64(len(b)) {
		return nil, fmt.Errorf("says %d entries and %d bytes of data in %d bytes", il, dl, len(b))
	}
	store := b[intro+il*entry:]
	h := header{}
	for i := range il {
		e := b[intro+i*entry:]
		tag := int(int32(binary.BigEndian.Uint32(e)))
		if !wanted(tag) {
			continue
		}
		offset := int64(binary.BigEndian.Uint32(e[8:]))
		f := field{typ: int(binary.BigEndian.Uint32(e[4:])), count: int(binary.BigEndian.Uint32(e[12:]))}
		if offset > dl || int64(f.count) > dl {
			return nil, fmt.Errorf("tag %d lies outside of the data", tag)
		}
		f.data = store[offset:]
		h[tag] = f
	}
	return h, nil
}

func wanted(tag int) bool {
	switch tag {
	case tagName, tagOldFileNames, tagFileSizes, tagFileStates, tagFileModes, tagFileDigests, tagFileFlags,
		tagDirIndexes, tagBaseNames, tagDirNames, tagLongFileSizes, tagFileDigestAlgo, tagRSAHeader, tagDSAHeader:
		return true
	}
	return false
}

// strings returns the strings of a tag, nil if it is not there.
func (h header) strings(tag int) ([]string, error) {
	f, ok := h[tag]
	if !ok {
		return nil, nil
	}
	if f.typ != typeString && f.typ != typeStringArray || f.typ == typeString && f.count != 1 {
		return nil, fmt.Errorf("tag %d has type %d with %d elements, not strings", tag, f.typ, f.count)
	}
	var out []string // grows with what is there: the count alone deserves no memory
	rest := f.data
	for range f.count {
		end := bytes.IndexByte(rest, 0)
		if end < 0 {
			return nil, fmt.Errorf("tag %d is cut off", tag)
		}
		out, rest = append(out, string(rest[:end])), rest[end+1:]
	}
	return out, nil
}

// ints returns a function for the elements of a numeric tag, and their number.
func (h header) ints(tag int, types ...int) (at func(int) uint64, n int, err error) {
	f, ok := h[tag]
	if !ok {
		return func(int) uint64 { return 0 }, 0, nil
	}
	for _, t := range types {
		if f.typ != t {
			continue
		}
		w := width[t]
		if f.count*w > len(f.data) {
			return nil, 0, fmt.Errorf("tag %d is cut off", tag)
		}
		return func(i int) uint64 {
			var v uint64
			for _, c := range f.data[i*w : (i+1)*w] {
				v = v<<8 | uint64(c)
			}
			return v
		}, f.count, nil
	}
	return nil, 0, fmt.Errorf("tag %d has type %d, not a number", tag, f.typ)
}

// parse fills the package from its header.
func (p *Package) parse(b []byte) error {
	h, err := parseHeader(b)
	if err != nil {
		return err
	}
	names, err := h.strings(tagName)
	if err != nil {
		return err
	}
	if len(names) != 1 || names[0] == "" {
		return errors.New("has no name")
	}
	p.Name = names[0]
	if err := p.parseFiles(h); err != nil {
		return fmt.Errorf("package %q: %w", p.Name, err)
	}
	return nil
}

func (p *Package) parseFiles(h header) error {
	p.Algo = MD5 // as it was before the tag was invented
	if algo, n, err := h.ints(tagFileDigestAlgo, typeInt32); err != nil {
		return err
	} else if n > 0 {
		p.Algo = int(algo(0))
	}
	pathOf, n, err := h.paths()
	if err != nil {
		return err
	}
	if n == 0 || !p.Known() {
		return nil
	}
	digests, err := h.strings(tagFileDigests)
	if err != nil {
		return err
	}
	sizes, nsizes, err := h.ints(tagFileSizes, typeInt32)
	if err != nil {
		return err
	}
	if nsizes == 0 {
		if sizes, nsizes, err = h.ints(tagLongFileSizes, typeInt64); err != nil {
			return err
		}
	}
	modes, nmodes, err := h.ints(tagFileModes, typeInt16)
	if err != nil {
		return err
	}
	flags, nflags, err := h.ints(tagFileFlags, typeInt32)
	if err != nil {
		return err
	}
	states, nstates, err := h.ints(tagFileStates, typeChar, typeInt8)
	if err != nil {
		return err
	}
	if len(digests) != n || nsizes != n || nmodes != n || nflags != n || nstates != 0 && nstates != n {
		return fmt.Errorf("has %d files, but %d digests, %d sizes, %d modes, %d flags and %d states",
			n, len(digests), nsizes, nmodes, nflags, nstates)
	}
	for i := range n {
		// State 0 is an ordinary file; the others were replaced by another package's
		// or never put on disk.
		if modes(i)&modeType != modeRegular || flags(i)&flagGhost != 0 || nstates > 0 && states(i) != 0 {
			continue
		}
		f := File{Size: int64(sizes(i)), Mode: uint16(modes(i)), Config: flags(i)&flagConfig != 0}
		if f.Path, err = pathOf(i); err != nil {
			return err
		}
		f.Digest, err = hex.DecodeString(digests[i])
		if err != nil || len(f.Digest) != digestSize(p.Algo) {
			return fmt.Errorf("%s has %q for a digest", f.Path, digests[i])
		}
		p.Files = append(p.Files, f)
	}
	return nil
}

// paths returns a function for the package's paths, and their number.
func (h header) paths() (at func(int) (string, error), n int, err error) {
	bases, err := h.strings(tagBaseNames)
	if err != nil {
		return nil, 0, err
	}
	if len(bases) == 0 {
		old, err := h.strings(tagOldFileNames)
		if err != nil {
			return nil, 0, err
		}
		return func(i int) (string, error) { return cleanPath(old[i]) }, len(old), nil
	}
	dirs, err := h.strings(tagDirNames)
	if err != nil {
		return nil, 0, err
	}
	index, nindex, err := h.ints(tagDirIndexes, typeInt32)
	if err != nil {
		return nil, 0, err
	}
	if nindex != len(bases) {
		return nil, 0, fmt.Errorf("has %d file names, but %d directory indexes", len(bases), nindex)
	}
	return func(i int) (string, error) {
		if index(i) >= uint64(len(dirs)) {
			return "", fmt.Errorf("file %q is in directory %d of %d", bases[i], index(i), len(dirs))
		}
		return cleanPath(dirs[index(i)] + bases[i])
	}, len(bases), nil
}

func cleanPath(p string) (string, error) {
	if !strings.HasPrefix(p, "/") {
		return "", fmt.Errorf("%q is no absolute path", p)
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return "", fmt.Errorf("%q climbs out of its directory", p)
		}
	}
	return path.Clean(p), nil
}
