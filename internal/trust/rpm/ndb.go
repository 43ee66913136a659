package rpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// eachNDB yields the headers of Packages.db, rpm's own format: a file header of
// 32 bytes; pages of slots of 16 bytes, each with a package number and where in
// the file its blob lies, in blocks of 16 bytes; and the blobs, each between a
// head and a tail that carries an Adler-32. All numbers are little-endian.
func eachNDB(path string, see func([]byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	// rpm holds this lock alone while it writes. Whoever waits for it here waits for
	// rpm, which may wait for a program that waits for a verdict.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return errors.New("rpm is writing it right now")
		}
		return fmt.Errorf("lock: %w", err)
	}
	if err := magicAt(f, []byte("RpmP\x00\x00\x00\x00")); err != nil { // format and version 0
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	const page, slot, block, fileHead = 4096, 16, 16, 32
	var head [fileHead]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return fmt.Errorf("read the file header: %w", err)
	}
	pages, blocks := int64(binary.LittleEndian.Uint32(head[12:])), st.Size()/block
	if pages == 0 || pages*page > st.Size() {
		return fmt.Errorf("is cut off: %d bytes with %d pages of slots", st.Size(), pages)
	}
	buf := make([]byte, page)
	var blob []byte // kept from one package to the next
	for p := range pages {
		if _, err := f.ReadAt(buf, p*page); err != nil {
			return fmt.Errorf("read slots: %w", err)
		}
		s := buf
		if p == 0 {
			s = s[fileHead:]
		}
		for ; len(s) > 0; s = s[slot:] {
			if string(s[:4]) != "Slot" {
				return fmt.Errorf("slot page %d holds no slots", p)
			}
			n := binary.LittleEndian.Uint32(s[4:])
			at, count := int64(binary.LittleEndian.Uint32(s[8:])), int64(binary.LittleEndian.Uint32(s[12:]))
			if at == 0 {
				continue
			}
			if n == 0 || at < pages*page/block || at+count > blocks || count*block > maxHeader {
				return fmt.Errorf("the slot of package number %d points outside of the file: it is cut off", n)
			}
			blob = slices.Grow(blob[:0], int(count*block))[:count*block]
			header, err := readBlob(f, n, at*block, blob)
			if err != nil {
				return fmt.Errorf("package number %d: %w", n, err)
			}
			if err := see(header); err != nil {
				return err
			}
		}
	}
	return nil
}

// readBlob fills b with a blob, and returns what is between its head (magic,
// package number, time, length) and its tail (checksum over all before it,
// length, magic).
func readBlob(f *os.File, n uint32, at int64, b []byte) ([]byte, error) {
	const head, tail = 16, 12
	size := int64(len(b))
	if size < head+tail {
		return nil, errors.New("its blob has no room for head and tail")
	}
	if _, err := f.ReadAt(b, at); err != nil {
		return nil, err
	}
	end := b[size-tail:]
	length := int64(binary.LittleEndian.Uint32(b[12:]))
	switch {
	case string(b[:4]) != "BlbS", binary.LittleEndian.Uint32(b[4:]) != n, string(end[8:]) != "BlbE",
		binary.LittleEndian.Uint32(end[4:]) != uint32(length), head+length+tail > size:
		return nil, errors.New("its blob is malformed")
	case binary.LittleEndian.Uint32(end) != adler32.Checksum(b[:size-tail]):
		return nil, errors.New("its blob does not have the checksum it should")
	}
	return b[head : head+length], nil
}
