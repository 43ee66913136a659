package dpkg

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// maxLine bounds one line of any of the files, in bytes. The longest ones in a
// Debian archive are dependency lists of some 20 KB.
const maxLine = 1 << 20

// lines yields each line with its number, from 1. A last line without its end
// is an error: dpkg ends every line, so the file is cut off there. So is a NUL
// byte: it stands where a file system lost data in a power failure.
func lines(name string, r io.Reader, see func(n int, line []byte) error) (last int, err error) {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 16<<10), maxLine)
	s.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			return i + 1, data[:i], nil
		}
		if atEOF && len(data) > 0 {
			return 0, nil, errCutOff
		}
		return 0, nil, nil
	})
	n := 0
	for s.Scan() {
		n++
		if bytes.IndexByte(s.Bytes(), 0) >= 0 {
			return n, fmt.Errorf("%s:%d: malformed line: a NUL byte", name, n)
		}
		if err := see(n, s.Bytes()); err != nil {
			return n, err
		}
	}
	if err := s.Err(); err != nil {
		return n, fmt.Errorf("%s:%d: %w", name, n+1, err)
	}
	return n, nil
}

var errCutOff = errors.New("the file is cut off in the middle of a line")

// stanza is one entry of status, as far as it matters here.
type stanza struct {
	name, arch string
	same       bool   // Multi-Arch: same
	status     string // the third word of Status
	conffiles  []conffile
}

type conffile struct {
	path string
	md5  [md5.Size]byte
}

// hasFiles reports whether files of the package are on disk. While a package is
// unpacked its files are partly the old and partly the new ones, and whichever
// are there are the package's: leaving it out would stop the machine's own
// upgrade in the middle of, say, libc.
func (s stanza) hasFiles() bool {
	return s.status != "not-installed" && s.status != "config-files"
}

// parseStatus reads the entries of status or of one journal file: fields of a
// name, a colon and a value, continued on lines that begin with white space,
// and a blank line after each entry, in status also after the last. dpkg ends a
// journal file without one, and renames it to its place when it is whole.
func parseStatus(name string, journal bool, r io.Reader, see func(line int, s stanza) error) error {
	var s stanza
	begun, field := 0, ""
	last, err := lines(name, r, func(n int, line []byte) error {
		if len(bytes.TrimSpace(line)) == 0 {
			if begun == 0 {
				return nil
			}
			if s.name == "" || s.status == "" {
				return fmt.Errorf("%s:%d: malformed entry: no Package or no Status", name, begun)
			}
			done, line := s, begun
			s, begun, field = stanza{}, 0, ""
			return see(line, done)
		}
		if line[0] == ' ' || line[0] == '\t' {
			if field == "" {
				return fmt.Errorf("%s:%d: malformed line: a continuation of nothing", name, n)
			}
			if field != "conffiles" {
				return nil
			}
			c, ok, err := parseConffile(string(bytes.TrimSpace(line)))
			if err != nil {
				return fmt.Errorf("%s:%d: malformed line: %w", name, n, err)
			}
			if ok {
				s.conffiles = append(s.conffiles, c)
			}
			return nil
		}
		key, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(key) == 0 {
			return fmt.Errorf("%s:%d: malformed line: no field name", name, n)
		}
		if begun == 0 {
			begun = n
		}
		if err := s.set(string(bytes.ToLower(key)), string(bytes.TrimSpace(value))); err != nil {
			return fmt.Errorf("%s:%d: malformed line: %w", name, n, err)
		}
		field = string(bytes.ToLower(key))
		return nil
	})
	if err != nil {
		return err
	}
	if begun != 0 && journal && s.name != "" && s.status != "" {
		return see(begun, s)
	}
	if begun != 0 {
		return fmt.Errorf("%s:%d: the file is cut off in the middle of the entry that begins at line %d", name, last, begun)
	}
	return nil
}

func (s *stanza) set(field, value string) error {
	switch field {
	case "package":
		if s.name != "" || value == "" || strings.ContainsAny(value, "/ ") {
			return fmt.Errorf("%q as the name of a package", value)
		}
		s.name = value
	case "architecture":
		s.arch = value
	case "multi-arch":
		s.same = value == "same"
	case "status":
		words := strings.Fields(value)
		if len(words) != 3 {
			return fmt.Errorf("%q as a status, which has three words", value)
		}
		s.status = words[2]
	}
	return nil
}

// parseConffile reads "/path md5 [obsolete] [remove-on-upgrade]"; ok is false
// for one that is not on disk yet.
func parseConffile(line string) (c conffile, ok bool, err error) {
	for _, flag := range []string{" obsolete", " remove-on-upgrade"} {
		line = strings.TrimSuffix(line, flag)
	}
	file, sum, found := cutLast(line, ' ')
	if !found {
		return c, false, errors.New("a conffile without a digest")
	}
	if sum == "newconffile" {
		return c, false, nil
	}
	if c.md5, err = parseMD5(sum); err != nil {
		return c, false, err
	}
	c.path, err = cleanPath(file)
	return c, err == nil, err
}

// parseSums reads md5sums: a digest, two spaces and a path without the leading
// slash. The variants that md5sum(1) itself writes are read as it means them: a
// star for the second space, ./ before the path, and a leading backslash on a
// line whose path has \\ and \n escaped.
func parseSums(name string, r io.Reader, see func(path string, sum [md5.Size]byte) error) error {
	_, err := lines(name, r, func(n int, line []byte) error {
		bad := func(err error) error { return fmt.Errorf("%s:%d: malformed line: %w", name, n, err) }
		line, escaped := bytes.CutPrefix(line, []byte(`\`))
		const width = 2 * md5.Size
		if len(line) < width+3 || line[width] != ' ' || line[width+1] != ' ' && line[width+1] != '*' {
			return bad(errors.New("not a digest, two spaces and a path"))
		}
		sum, err := parseMD5(string(line[:width]))
		if err != nil {
			return bad(err)
		}
		file := string(line[width+2:])
		if escaped {
			file = strings.NewReplacer(`\\`, `\`, `\n`, "\n").Replace(file)
		}
		if file, err = cleanPath(file); err != nil {
			return bad(err)
		}
		return see(file, sum)
	})
	return err
}

func parseMD5(s string) (sum [md5.Size]byte, err error) {
	if len(s) != 2*md5.Size {
		return sum, fmt.Errorf("%q is no MD5", s)
	}
	if _, err := hex.Decode(sum[:], []byte(s)); err != nil {
		return sum, fmt.Errorf("%q is no MD5", s)
	}
	return sum, nil
}

// cleanPath makes a path of the database absolute, and refuses one that climbs.
func cleanPath(p string) (string, error) {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return "", fmt.Errorf("%q climbs out of its directory", p)
		}
	}
	clean := path.Clean("/" + p)
	if clean == "/" {
		return "", fmt.Errorf("%q is no file", p)
	}
	return clean, nil
}

// diversions says which files dpkg keeps under another name (dpkg-divert(1)).
type diversions struct {
	byPath map[string]diversion
	stamp  uint64
}

type diversion struct{ to, by string }

// apply returns where the path of a package lies on disk.
func (d diversions) apply(path, pkg string) string {
	if v, ok := d.byPath[path]; ok && v.by != pkg {
		return v.to
	}
	return path
}

func readDiversions(path string) (diversions, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return diversions{}, nil
	}
	if err != nil {
		return diversions{}, fmt.Errorf("read diversions: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	return parseDiversions(path, f)
}

// parseDiversions reads groups of three lines: the path, where it goes, and the
// package for which it does not, a colon when it does for all of them.
func parseDiversions(name string, r io.Reader) (diversions, error) {
	d := diversions{byPath: map[string]diversion{}}
	var h maphash.Hash
	h.SetSeed(seed)
	var group [3]string
	last, err := lines(name, r, func(n int, line []byte) error {
		h.Write(line)
		h.WriteByte('\n')
		i := (n - 1) % 3
		group[i] = string(line)
		if i < 2 {
			p, err := cleanPath(group[i])
			if err != nil {
				return fmt.Errorf("%s:%d: malformed line: %w", name, n, err)
			}
			group[i] = p
			return nil
		}
		if group[2] == "" {
			return fmt.Errorf("%s:%d: malformed line: no package", name, n)
		}
		d.byPath[group[0]] = diversion{to: group[1], by: packageOf(group[2])}
		return nil
	})
	if err != nil {
		return diversions{}, err
	}
	if last%3 != 0 {
		return diversions{}, fmt.Errorf("%s:%d: the file is cut off in the middle of a diversion", name, last)
	}
	d.stamp = h.Sum64()
	return d, nil
}
