package trust

import (
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/fileid"
)

type class uint8

const (
	data   class = iota // nothing that could become code
	code                // hashed, and trusted if it is what it should be
	unsure              // code if it begins as an ELF file does
)

// elfHeader is the size in bytes of the smallest header an ELF file can have.
const elfHeader = 52

// classify is the one rule that says which files of a package may become code,
// and are therefore worth hashing. A file may when
//
//   - any of its execute permissions is set, whatever it contains, or
//   - its name is that of a shared object: lib.so, lib.so.6, also with the
//     suffixes under which interpreters load machine code (.node, .cmxs, .oct), or
//   - text is set and its name is that of program text ([cordon.IsProgramText]), or
//   - its name is that of a kernel module, also of a compressed one (the kernel is
//     given the file as it is): a machine that is restricted has to be able to load
//     the drivers of its packages, at boot above all, or
//   - it is an ELF file without a suffix outside of the directories that hold no
//     machine code.
//
// Only for the last one is a file opened, for four bytes. Leaving a file out
// costs trust, never safety.
func classify(path string, mode uint32, size int64, text bool) class {
	if mode&0o111 != 0 {
		return code
	}
	name := path[strings.LastIndexByte(path, '/')+1:]
	if text && cordon.IsProgramText(name) {
		return code
	}
	dot := strings.LastIndexByte(name, '.')
	if dot >= 0 {
		switch name[dot:] {
		case ".so", ".ko", ".node", ".cmxs", ".oct":
			return code
		case ".gz", ".xz", ".zst":
			if strings.HasSuffix(name[:dot], ".ko") {
				return code
			}
		}
		if strings.Contains(name, ".so.") {
			return code
		}
		return data
	}
	if size < elfHeader || portable(path) {
		return data
	}
	return unsure
}

// portable reports whether a path is in a directory that holds no machine code:
// by the Filesystem Hierarchy Standard 3.0, /usr/share is for
// architecture-independent files, /usr/include for headers, /usr/src for sources.
func portable(path string) bool {
	for _, dir := range [...]string{"/usr/share/", "/usr/include/", "/usr/src/"} {
		if strings.HasPrefix(path, dir) {
			return true
		}
	}
	return false
}

// isCode applies the rule to what lies at path below root, which lstat(2)
// describes.
func isCode(root, path string, st *unix.Stat_t, text bool) bool {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	switch classify(path, st.Mode, st.Size, text) {
	case code:
		return true
	case unsure:
		return fileid.Magic(filepath.Join(root, path), "\x7fELF")
	}
	return false
}
