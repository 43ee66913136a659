package archive

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/durable"
	"github.com/cordon-project/cordon/internal/trust/rpm"
)

// Ledger remembers, over restarts, which keys a machine had when it was
// restricted, and what was admitted since. Make one with [OpenLedger].
type Ledger struct {
	root, file string
	trusts     func(cordon.Digest) bool
	log        *slog.Logger

	admitting sync.Mutex // one admission at a time: each may take the memory of a decompressor

	mu   sync.Mutex // guards what follows
	st   standing
	done map[cordon.Digest]bool // archives that this process has admitted
}

// standing is what is on disk.
type standing struct {
	restricted bool
	keyrings   map[cordon.Digest]bool
	admitted   map[cordon.Digest]cordon.TrustEntry
}

// OpenLedger reads the ledger at file, which need not exist. root stands for /;
// trusts says whether a content is trusted already, of which no package is asked. A ledger that cannot be read
// counts as that of a restricted machine without any key: nothing is admitted.
func OpenLedger(root, file string, trusts func(cordon.Digest) bool, log *slog.Logger) *Ledger {
	l := &Ledger{root: root, file: file, trusts: trusts, log: log, done: map[cordon.Digest]bool{}}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return l
	}
	if err == nil {
		l.st, err = decode(data)
	}
	if err != nil {
		log.Error("the ledger of admitted packages cannot be used: nothing is admitted until the machine is unrestricted", "file", file, "err", err)
		l.st = standing{restricted: true}
	}
	return l
}

// Restrict says that the machine is restricted from now on, or no longer. When it
// begins, the keys are noted that may vouch for archives meanwhile. It changes
// nothing if it is so already, or if it fails.
func (l *Ledger) Restrict(on bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.st.restricted == on {
		return nil
	}
	next := standing{restricted: on}
	clear(l.done)
	if on {
		all, err := keyrings(l.root)
		if err != nil {
			return err
		}
		next.keyrings = map[cordon.Digest]bool{}
		for _, k := range all {
			next.keyrings[k.digest] = true
		}
	}
	return l.store(next)
}

// Admit verifies the archives at paths, and remembers what they bring. It
// admits all of them or none; the error says which were refused, why, and what an
// administrator can do.
func (l *Ledger) Admit(ctx context.Context, paths []string) error {
	l.admitting.Lock()
	defer l.admitting.Unlock()
	if l.Gate() == nil {
		return nil // not restricted
	}
	v := &verifier{root: l.root, trusts: l.trusts}
	if err := l.equip(v); err != nil {
		return err
	}
	contents, archives, err := v.verify(ctx, paths)
	if err != nil || len(archives) == 0 {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.st.restricted {
		return nil // unrestricted meanwhile
	}
	next := standing{restricted: true, keyrings: map[cordon.Digest]bool{}, admitted: map[cordon.Digest]cordon.TrustEntry{}}
	maps.Copy(next.keyrings, l.st.keyrings)
	maps.Copy(next.admitted, l.st.admitted)
	for _, c := range contents {
		if c.keyring {
			next.keyrings[c.entry.Digest] = true
			continue
		}
		next.admitted[c.entry.Digest] = c.entry
	}
	if err := l.store(next); err != nil {
		return err
	}
	for _, d := range archives {
		l.done[d] = true
	}
	return nil
}

// equip gives a verifier the keys that count.
func (l *Ledger) equip(v *verifier) error {
	all, err := keyrings(l.root)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	v.done = maps.Clone(l.done)
	for _, k := range all {
		if l.st.keyrings[k.digest] {
			v.keys = append(v.keys, k.keys()...)
		}
	}
	return nil
}

// Entries returns what was admitted and may not be in the package database yet.
func (l *Ledger) Entries() []cordon.TrustEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]cordon.TrustEntry, 0, len(l.st.admitted))
	for _, e := range l.st.admitted {
		all = append(all, e)
	}
	return all
}

// Gate returns what a package database may add to the trust set while the
// machine is restricted: a function that says whether a content was admitted.
// It is nil on a machine that is not restricted, where the database is taken at
// its word.
func (l *Ledger) Gate() func(cordon.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.st.restricted {
		return nil
	}
	admitted := l.st.admitted // never changed, only replaced
	return func(d cordon.Digest) bool { _, ok := admitted[d]; return ok }
}

// Signs reports whether a key that counts has signed the header of an rpm
// package: rpm keeps the signature in its database, with the digests of the files.
func (l *Ledger) Signs(s rpm.Signed) bool {
	var v verifier
	return l.equip(&v) == nil && v.signs(s)
}

// store is called with mu held.
func (l *Ledger) store(next standing) error {
	if err := durable.Replace(l.file, next.encode(), 0o600); err != nil {
		return fmt.Errorf("store the ledger of admitted packages: %w", err)
	}
	l.st = next
	return nil
}

const firstLine = "cordon ledger 1"

// encode writes one fact a line; the last one says that it is whole.
func (s standing) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, firstLine)
	if s.restricted {
		fmt.Fprintln(&b, "restricted")
	}
	var lines []string
	for d := range s.keyrings {
		lines = append(lines, "keyring "+d.String())
	}
	for d, e := range s.admitted {
		lines = append(lines, strings.TrimRight(fmt.Sprintf("admitted %s %d %q %s", d, e.Size, e.Origin, role(e.Role)), " "))
	}
	slices.Sort(lines)
	for _, line := range lines {
		fmt.Fprintln(&b, line)
	}
	fmt.Fprintln(&b, "end")
	return b.Bytes()
}

func decode(data []byte) (standing, error) {
	s := standing{keyrings: map[cordon.Digest]bool{}, admitted: map[cordon.Digest]cordon.TrustEntry{}}
	in := bufio.NewScanner(bytes.NewReader(data))
	if !in.Scan() || in.Text() != firstLine {
		return s, errors.New("it does not begin as a ledger does")
	}
	for in.Scan() {
		kind, rest, _ := strings.Cut(in.Text(), " ")
		hexa, rest, _ := strings.Cut(rest, " ")
		size, origin, _ := strings.Cut(rest, " ")
		d, ok := parseDigest(hexa)
		switch {
		case kind == "end":
			return s, nil
		case kind == "restricted":
			s.restricted = true
			continue
		case kind == "keyring" && ok:
			s.keyrings[d] = true
			continue
		case kind == "admitted" && ok:
			if e, ok := parseAdmitted(size, origin); ok {
				e.Digest = d
				s.admitted[d] = e
				continue
			}
		}
		return s, fmt.Errorf("the line %q is not understood", in.Text())
	}
	return s, cmp.Or(in.Err(), errors.New("it is cut off"))
}

// role is how a role is written: its number, or nothing.
func role(r cordon.Role) string {
	if r == cordon.NoRole {
		return ""
	}
	return strconv.Itoa(int(r))
}

// parseAdmitted reads what follows a digest: the size; and the origin in quotes,
// with the role behind it if there is one.
func parseAdmitted(size, rest string) (e cordon.TrustEntry, ok bool) {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return e, false
	}
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return e, false
	}
	if e.Origin, err = strconv.Unquote(quoted); err != nil {
		return e, false
	}
	e.Size = n
	if number, has := strings.CutPrefix(rest[len(quoted):], " "); has {
		r, err := strconv.ParseUint(number, 10, 8)
		e.Role = cordon.Role(r)
		return e, err == nil && e.Role != cordon.NoRole && e.Role.Known()
	}
	return e, len(rest) == len(quoted)
}
