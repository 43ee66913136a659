package rpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
)

// Berkeley DB, access method hash, as the last releases write it: the types of
// its pages and of the items on them, and the sizes of its structures.
const (
	bdbMagic     = 0x061561
	pageFree     = 0
	pageHashOld  = 2
	pageHash     = 13
	pageOverflow = 7
	pageHashMeta = 8

	itemInline   = 1
	itemOverflow = 3

	pageHeader = 26
)

type bdb struct {
	f     *os.File
	order binary.ByteOrder
	size  int64 // of a page, in bytes
	pages int64
	used  int64  // overflow pages that values were read from
	chain []byte // a page of a chain
	value []byte // the value that was read last; kept for the next one
}

// eachBDB yields the headers of Packages, a Berkeley DB hash table from package
// numbers to headers. rpm coordinates writers in shared memory that is no
// business of ours, so a file that changed while it was read is an error.
func eachBDB(path string, see func([]byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	before, err := f.Stat()
	if err != nil {
		return err
	}
	db, err := openBDB(f, before.Size())
	if err != nil {
		return err
	}
	page := make([]byte, db.size)
	overflow := int64(0)
	for n := int64(1); n < db.pages; n++ {
		if err := db.read(n, page); err != nil {
			return err
		}
		switch page[25] {
		case pageHash, pageHashOld:
			if err := db.eachPair(page, see); err != nil {
				return fmt.Errorf("page %d: %w", n, err)
			}
		case pageOverflow:
			overflow++
		case pageFree:
		default:
			return fmt.Errorf("page %d has type %d", n, page[25])
		}
	}
	// Package headers are too large for the pages of the table, so a page of the
	// table that was not recognized as one leaves pages behind that no value uses.
	if overflow != db.used {
		return fmt.Errorf("%d of %d pages belong to no package", overflow-db.used, overflow)
	}
	after, err := f.Stat()
	if err != nil {
		return err
	}
	if !after.ModTime().Equal(before.ModTime()) || after.Size() != before.Size() {
		return errors.New("rpm is writing it right now")
	}
	return nil
}

// openBDB reads the first page: magic at 12, page size at 20, type at 25, number
// of the last page at 32.
func openBDB(f *os.File, size int64) (*bdb, error) {
	meta := make([]byte, 512)
	if _, err := f.ReadAt(meta, 0); err != nil {
		return nil, fmt.Errorf("read the first page: %w", err)
	}
	db := &bdb{f: f, order: binary.LittleEndian}
	if db.order.Uint32(meta[12:]) != bdbMagic {
		db.order = binary.BigEndian
	}
	if db.order.Uint32(meta[12:]) != bdbMagic || meta[25] != pageHashMeta {
		return nil, errors.New("is no Berkeley DB hash table")
	}
	db.size, db.pages = int64(db.order.Uint32(meta[20:])), int64(db.order.Uint32(meta[32:]))+1
	if db.size < 512 || db.size > 64<<10 || db.size&(db.size-1) != 0 {
		return nil, fmt.Errorf("says that its pages have %d bytes", db.size)
	}
	if db.pages*db.size > size {
		return nil, fmt.Errorf("is cut off: %d bytes with %d pages of %d", size, db.pages, db.size)
	}
	db.chain = make([]byte, db.size)
	return db, nil
}

func (db *bdb) read(n int64, page []byte) error {
	if _, err := db.f.ReadAt(page, n*db.size); err != nil {
		return fmt.Errorf("read page %d: %w", n, err)
	}
	return nil
}

// eachPair yields the values of one hash page. After the page header comes a
// table of where the items begin, keys and values by turns; the items fill the
// page from its end, so each one ends where the one before it begins.
func (db *bdb) eachPair(page []byte, see func([]byte) error) error {
	count := int(db.order.Uint16(page[20:]))
	if count%2 != 0 || pageHeader+2*count > len(page) {
		return fmt.Errorf("has %d items", count)
	}
	item := func(i int) ([]byte, error) {
		from, to := int(db.order.Uint16(page[pageHeader+2*i:])), len(page)
		if i > 0 {
			to = int(db.order.Uint16(page[pageHeader+2*(i-1):]))
		}
		if from < pageHeader+2*count || from >= to || to > len(page) {
			return nil, fmt.Errorf("item %d lies at %d to %d", i, from, to)
		}
		return page[from:to], nil
	}
	for i := 0; i < count; i += 2 {
		key, err := item(i)
		if err != nil {
			return err
		}
		value, err := item(i + 1)
		if err != nil {
			return err
		}
		if key[0] != itemInline || len(key) != 5 {
			return fmt.Errorf("item %d is no package number", i)
		}
		if db.order.Uint32(key[1:]) == 0 {
			continue // package number 0 holds the number for the next package
		}
		switch {
		case value[0] == itemInline:
			value = value[1:]
		case value[0] == itemOverflow && len(value) == 12:
			value, err = db.overflow(int64(db.order.Uint32(value[4:])), int64(db.order.Uint32(value[8:])))
			if err != nil {
				return fmt.Errorf("item %d: %w", i+1, err)
			}
		default:
			return fmt.Errorf("item %d has type %d", i+1, value[0])
		}
		if err := see(value); err != nil {
			return err
		}
	}
	return nil
}

// overflow reads a value of total bytes that fills a chain of pages of its own:
// the next page is at 16, the number of bytes on this one at 22. The value is
// valid until the next call.
func (db *bdb) overflow(n, total int64) ([]byte, error) {
	if total > maxHeader || total > db.pages*db.size {
		return nil, fmt.Errorf("says that it has %d bytes", total)
	}
	value, page := slices.Grow(db.value[:0], int(total)), db.chain
	for n != 0 {
		if n >= db.pages {
			return nil, fmt.Errorf("continues on page %d of %d", n, db.pages)
		}
		if err := db.read(n, page); err != nil {
			return nil, err
		}
		used := int64(db.order.Uint16(page[22:]))
		if page[25] != pageOverflow || used == 0 || pageHeader+used > db.size {
			return nil, fmt.Errorf("continues on page %d, which holds %d bytes of type %d", n, used, page[25])
		}
		value = append(value, page[pageHeader:pageHeader+used]...)
		db.used++
		if int64(len(value)) > total {
			break // also what ends a chain that runs in a circle
		}
		n = int64(db.order.Uint32(page[16:]))
	}
	if int64(len(value)) != total {
		return nil, fmt.Errorf("has %d bytes or more where %d are announced", len(value), total)
	}
	db.value = value
	return value, nil
}
