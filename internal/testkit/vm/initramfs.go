package vm

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// tree is the content of an initramfs, by absolute path.
type tree map[string]entry

// entry is a file of an initramfs: its content is that of from, or data. By its
// mode it is a directory, or a symbolic link with data as its target.
type entry struct {
	mode fs.FileMode
	data []byte
	from string // a file of this machine
}

// write writes the tree as a cpio archive in the "newc" format, uncompressed:
// the emulated processor would take longer to unpack it than QEMU to read it.
// Directories that are named by no entry are made.
func (t tree) write(w io.Writer) error {
	all := make(tree, len(t))
	for name, e := range t {
		all[name] = e
		for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = entry{mode: fs.ModeDir | 0o755}
			}
		}
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names) // a directory comes before what is in it
	for i, name := range names {
		if err := all[name].write(w, strings.TrimPrefix(name, "/"), i+1); err != nil {
			return fmt.Errorf("write initramfs: %w", err)
		}
	}
	return entry{}.write(w, "TRAILER!!!", 0)
}

func (e entry) write(w io.Writer, name string, ino int) error {
	body, size := io.Reader(bytes.NewReader(e.data)), int64(len(e.data))
	if e.from != "" {
		f, err := os.Open(e.from)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // only read
		st, err := f.Stat()
		if err != nil {
			return err
		}
		body, size = io.LimitReader(f, st.Size()), st.Size()
	}
	if size > 1<<31 {
		return fmt.Errorf("%s has more than 2 GiB", name)
	}
	mode, links := uint32(e.mode.Perm())|0o100000, 1
	switch e.mode.Type() {
	case fs.ModeDir:
		mode, links = uint32(e.mode.Perm())|0o040000, 2
	case fs.ModeSymlink:
		mode = 0o120777
	}
	var b bytes.Buffer
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, device numbers (4), namesize, check
	fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", ino, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(name)+1, 0)
	b.WriteString(name + "\x00")
	pad(&b, int64(b.Len()))
	if _, err := w.Write(b.Bytes()); err != nil {
		return err
	}
	if n, err := io.Copy(w, body); err != nil || n != size {
		return fmt.Errorf("%s: %d of %d bytes: %w", name, n, size, err)
	}
	b.Reset()
	pad(&b, size)
	_, err := w.Write(b.Bytes())
	return err
}

// pad fills up to a multiple of four.
func pad(b *bytes.Buffer, n int64) { b.Write(make([]byte, (4-n%4)%4)) }
