// Package rules reads the administrator's own additions to the trust set: one
// rule a line, # begins a comment line.
//
//	# The agent of our backup, built by ourselves.
//	sha256 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae backup 1.4
//	path /opt/tools
//
// sha256 trusts one content, wherever it lies; the rest of the line is a
// comment. path trusts every program at or below one place, whatever its
// content, as long as nobody but root can change what lies there. The place is
// looked at when the trust set is built, not watched: for a program that is put
// there later, touch the rules file; where a machine is restricted that waits.
//
// It owns the syntax, and the question who can change a file. What it promises:
// a rules file that others than root can write is not read, a line that is not
// understood is an error that names it, and a path rule never covers a file that
// another user could have put there.
package rules

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/fileid"
)

// The bounds of a rules file and of one path rule. They are far beyond what a
// person writes; they stop a wrong file and a rule for a whole disk.
const (
	maxLine  = 8 << 10 // bytes
	maxRules = 10_000
	maxFiles = 200_000 // files below one path
)

// Rule trusts one content or one place: exactly one of Digest and Path is set.
type Rule struct {
	Line   int // in the rules file, from 1
	Digest cordon.Digest
	Path   string // absolute and clean
}

// Load reads the rules file. The error is a [cordon.Error] that says what to
// do, and wraps fs.ErrNotExist where there is no such file.
func Load(path string) ([]Rule, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, refuse(err, "The rules file %s cannot be opened. Make it readable for root, or remove it from the configuration.", path)
	}
	defer func() { _ = f.Close() }() // only read
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, refuse(err, "The rules file %s cannot be examined. Check the file system it lies on.", path)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, refuse(nil, "The rules file %s is not a regular file. Put a text file there.", path)
	}
	if why := Weak(&st); why != "" {
		return nil, refuse(nil, "The rules file %s %s, so its rules are not trusted. Run: chown root:root %[1]s && chmod 0644 %[1]s", path, why)
	}
	return parse(path, f)
}

func refuse(cause error, format string, args ...any) error {
	e := cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, format, args...)
	e.Err = cause
	return e
}

// parse reads rules; name is what errors call the file.
func parse(name string, r io.Reader) ([]Rule, error) {
	var rules []Rule
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	n := 0
	for s.Scan() {
		n++
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		rule, advice := parseLine(line)
		if advice != "" {
			return nil, refuse(nil, "%s:%d: %s", name, n, advice)
		}
		if len(rules) == maxRules {
			return nil, refuse(nil, "%s:%d: There are more than %d rules. Trust a directory with path instead.", name, n, maxRules)
		}
		rule.Line = n
		rules = append(rules, rule)
	}
	if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, refuse(err, "%s:%d: The line is longer than %d bytes. A rules file is a text file with one rule a line.", name, n+1, maxLine)
	} else if err != nil {
		return nil, refuse(err, "The rules file %s cannot be read to its end. Check the file system it lies on.", name)
	}
	return rules, nil
}

// parseLine returns a rule, or what to do about the line.
func parseLine(line string) (r Rule, advice string) {
	if strings.ContainsRune(line, 0) {
		return r, "The line contains a NUL byte. A rules file is a text file."
	}
	verb, rest := cutSpace(line)
	switch verb {
	case "sha256":
		sum, _ := cutSpace(rest)
		if len(sum) != 2*len(r.Digest) {
			return r, fmt.Sprintf("A SHA-256 has 64 hex digits, and %q has %d. Take it from sha256sum FILE.", sum, len(sum))
		}
		if _, err := hex.Decode(r.Digest[:], []byte(sum)); err != nil {
			return r, fmt.Sprintf("%q contains something else than hex digits. Take the SHA-256 from sha256sum FILE.", sum)
		}
		if r.Digest == (cordon.Digest{}) {
			return r, "The SHA-256 is all zeros, which no file has. Take it from sha256sum FILE."
		}
		return r, ""
	case "path":
		switch {
		case !strings.HasPrefix(rest, "/"):
			return r, fmt.Sprintf("%q is not an absolute path. Write it from / on.", rest)
		case filepath.Clean(rest) == "/":
			return r, "A rule for / would trust the whole machine. Name the directory that you mean."
		case filepath.Clean(rest) != strings.TrimSuffix(rest, "/"):
			return r, fmt.Sprintf("%q is not a plain path. Write %q.", rest, filepath.Clean(rest))
		}
		r.Path = filepath.Clean(rest)
		return r, ""
	}
	return r, fmt.Sprintf("%q is no rule. Begin the line with sha256, path, or # for a comment.", verb)
}

func cutSpace(s string) (first, rest string) {
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], strings.TrimLeft(s[i:], " \t")
	}
	return s, ""
}

// Walk visits every regular file at or below the rule's path that nobody but
// root can change, with its path below root. Whatever somebody else could
// change is left out with all that lies below it, and passed to offend with the
// reason; so is a path that is not there. Symbolic links are followed on the way
// to the rule's path, and not below it.
func (r Rule) Walk(root string, see func(path string, st *unix.Stat_t) error, offend func(path, why string)) error {
	top, err := fileid.Resolve(root, r.Path, func(dir string, st *unix.Stat_t) error {
		if why := Weak(st); why != "" {
			return &offenceError{dir, why}
		}
		return nil
	})
	var o *offenceError
	var at *fs.PathError
	switch {
	case errors.As(err, &o):
		offend(o.path, o.why)
		return nil
	case errors.As(err, &at):
		offend(at.Path, at.Err.Error())
		return nil
	case err != nil:
		return err
	}
	return (&walk{root: root, see: see, offend: offend}).at(top)
}

// offenceError carries an offence out of the walk to a rule's path.
type offenceError struct{ path, why string }

func (e *offenceError) Error() string { return e.path + " " + e.why }

type walk struct {
	root   string
	see    func(string, *unix.Stat_t) error
	offend func(path, why string)
	files  int
}

func (w *walk) at(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(w.root, path), &st); err != nil {
		w.offend(path, err.Error())
		return nil
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil
	}
	if why := Weak(&st); why != "" {
		w.offend(path, why)
		return nil
	}
	if kind == unix.S_IFREG {
		if w.files++; w.files > maxFiles {
			return refuse(nil, "More than %d files lie below one path of the rules file. Name the directories that hold programs.", maxFiles)
		}
		return w.see(path, &st)
	}
	entries, err := os.ReadDir(filepath.Join(w.root, path))
	if err != nil {
		w.offend(path, err.Error())
		return nil
	}
	for _, e := range entries {
		if err := w.at(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Weak says why somebody else than root could change a file or directory, ""
// if nobody could. The user that this process runs as counts as root: it is
// root wherever a restriction is enforced, and never anybody who is not in
// charge of the trust set already. A POSIX ACL that lets others write shows as
// the group's permission (acl(5)).
func Weak(st *unix.Stat_t) string {
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Sprintf("belongs to user %d, not to root", st.Uid)
	}
	switch {
	case st.Mode&0o002 != 0:
		return "can be written by everybody"
	case st.Mode&0o020 != 0:
		return "can be written by its group"
	}
	return ""
}
