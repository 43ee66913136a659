package rpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The tags of signatures over a header (rpmtag.h): by an RSA or EdDSA key, and by
// a DSA key. Older ones over header and payload together are not looked at.
const (
	tagDSAHeader = 267
	tagRSAHeader = 268
)

const typeBin = 7

// magic begins a header in a package file, and what is signed.
var magic = []byte{0x8e, 0xad, 0xe8, 0x01, 0, 0, 0, 0}

// leadSize is the size of what precedes the headers in a package file.
const leadSize = 96

// Signed is the header of a package with the signatures over it.
type Signed struct {
	Header     []byte // what is signed
	Signatures [][]byte
}

// ReadFile reads the headers of a package file, and leaves the payload unread:
// rpm checks it against the header when it unpacks.
func ReadFile(r io.Reader) (*Package, Signed, error) {
	var s Signed
	lead := make([]byte, leadSize)
	if _, err := io.ReadFull(r, lead); err != nil || !bytes.HasPrefix(lead, []byte{0xed, 0xab, 0xee, 0xdb}) {
		return nil, s, errors.New("it is no rpm package")
	}
	signature, err := readHeader(r)
	if err != nil {
		return nil, s, fmt.Errorf("signature header: %w", err)
	}
	if pad := (8 - len(signature)%8) % 8; pad > 0 {
		if _, err := io.CopyN(io.Discard, r, int64(pad)); err != nil {
			return nil, s, err
		}
	}
	main, err := readHeader(r)
	if err != nil {
		return nil, s, fmt.Errorf("header: %w", err)
	}
	h, err := parseHeader(signature[len(magic):])
	if err != nil {
		return nil, s, fmt.Errorf("signature header: %w", err)
	}
	s.Header = main
	s.signatures(h)
	p := &Package{}
	if err := p.parse(main[len(magic):]); err != nil {
		return nil, s, err
	}
	return p, s, nil
}

// readHeader reads a header with its magic.
func readHeader(r io.Reader) ([]byte, error) {
	intro := make([]byte, len(magic)+8)
	if _, err := io.ReadFull(r, intro); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(intro, magic) {
		return nil, errors.New("does not begin as a header does")
	}
	size := int64(binary.BigEndian.Uint32(intro[8:]))*16 + int64(binary.BigEndian.Uint32(intro[12:]))
	if size > maxHeader {
		return nil, fmt.Errorf("says that it has %d bytes", size)
	}
	b := bytes.NewBuffer(intro)
	if _, err := io.CopyN(b, r, size); err != nil { // grows with what is there
		return nil, err
	}
	return b.Bytes(), nil
}

// tagRegion marks what was in the package's file, of a header that has grown in
// the database: its data ends with a copy of the entry that says how many
// entries the region has.
const tagRegion = 63

// region takes what is signed, and the signatures, out of a header in the
// database, where rpm has put them together.
func region(b []byte) (Signed, error) {
	h, err := parseHeader(b) // checks the sizes
	if err != nil {
		return Signed{}, err
	}
	il := int(binary.BigEndian.Uint32(b))
	entries, store := b[8:8+il*16], b[8+il*16:]
	if binary.BigEndian.Uint32(entries) != tagRegion {
		return Signed{}, errors.New("does not begin with a region")
	}
	trailer := int(binary.BigEndian.Uint32(entries[8:]))
	if trailer+16 > len(store) || binary.BigEndian.Uint32(store[trailer:]) != tagRegion {
		return Signed{}, errors.New("the region has no end")
	}
	size := -int(int32(binary.BigEndian.Uint32(store[trailer+8:])))
	if size < 16 || size%16 != 0 || size > len(entries) {
		return Signed{}, fmt.Errorf("the region says that it has %d bytes of entries", size)
	}
	s := Signed{Header: bytes.Clone(magic)}
	s.Header = binary.BigEndian.AppendUint32(s.Header, uint32(size/16))
	s.Header = binary.BigEndian.AppendUint32(s.Header, uint32(trailer+16))
	s.Header = append(append(s.Header, entries[:size]...), store[:trailer+16]...)
	s.signatures(h)
	return s, nil
}

func (s *Signed) signatures(h header) {
	for _, tag := range []int{tagRSAHeader, tagDSAHeader} {
		if f, ok := h[tag]; ok && f.typ == typeBin && f.count <= len(f.data) {
			s.Signatures = append(s.Signatures, bytes.Clone(f.data[:f.count]))
		}
	}
}

// Vouched returns the files of the package as its signed header has them, if
// valid says that one of the signatures over it is good: the database itself can
// be written by root. It may be called until see returns, see [DB.Packages].
func (p *Package) Vouched(valid func(Signed) bool) []File {
	s, err := region(p.header)
	if err != nil || !valid(s) {
		return nil
	}
	signed := &Package{}
	if err := signed.parse(s.Header[len(magic):]); err != nil || signed.Algo != SHA256 {
		return nil
	}
	return signed.Files
}
