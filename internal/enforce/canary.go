package enforce

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

// Canary is a tiny program that ends at once with success. Each has a content,
// and so a digest, of its own.
type Canary struct{ image []byte }

// code ends the process with status 0: exit(2), by processor.
var code = map[string]struct {
	machine uint16 // e_machine, elf(5)
	text    []byte
}{
	"amd64": {62, []byte{0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05}},                   // mov eax,60; xor edi,edi; syscall
	"arm64": {183, []byte{0xa8, 0x0b, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 0x01, 0, 0, 0xd4}}, // mov x8,93; mov x0,0; svc 0
}

// NewCanary makes a canary that nobody has seen before.
func NewCanary() (*Canary, error) {
	c, ok := code[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("make canary: not possible on %s", runtime.GOARCH)
	}
	const base, header, entry = 0x400000, 64, 56
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("make canary: %w", err)
	}
	size := uint64(header + entry + len(c.text))
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, v := range []any{
		uint16(2), c.machine, uint32(1), uint64(base + header + entry), uint64(header), uint64(0), uint32(0), // ET_EXEC … e_flags
		uint16(header), uint16(entry), uint16(1), uint16(0), uint16(0), uint16(0), // sizes and counts
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000), // PT_LOAD, r-x
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			return nil, fmt.Errorf("make canary: %w", err)
		}
	}
	b.Write(c.text)
	b.Write(nonce)
	return &Canary{b.Bytes()}, nil
}

// Entry returns the trust entry that lets the canary run.
func (c *Canary) Entry() cordon.TrustEntry {
	return cordon.TrustEntry{Digest: sha256.Sum256(c.image), Size: int64(len(c.image)), Origin: "cordon:canary"}
}

// WriteFile puts the canary at path, executable.
func (c *Canary) WriteFile(path string) error {
	if err := os.WriteFile(path, c.image, 0o700); err != nil {
		return fmt.Errorf("write canary: %w", err)
	}
	return nil
}

// maxUntold bounds what a [Tester] remembers of canaries whose refusal was not told.
const maxUntold = 64

// Tester proves that a mode is in force, by having the guardian run two
// canaries inside the scope: one that the trust set holds and one that it does not.
type Tester struct {
	Guardian *Guardian
	Dir      string  // a directory inside the scope in which files may be made
	Trusted  *Canary // its entry is in every set that is applied

	mu      sync.Mutex
	untold  map[string]bool // canaries whose refusal nobody has asked about yet
	refused uint64          // canaries that the kernel refused
	wouldBe uint64          // canaries that it let run in mode audit
}

// Own reports whether r is the refusal of a canary of this tester, which is
// nobody's doing but Cordon's. It answers so once for each canary.
func (t *Tester) Own(r Refusal) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	// A sample may be named when the canary is gone already (proc_pid_fd(5)).
	path := strings.TrimSuffix(r.Path, " (deleted)")
	own := t.untold[path] && r.Count <= 1
	if own {
		delete(t.untold, path)
	}
	return own
}

// Without returns s without this tester's canaries.
func (t *Tester) Without(s Stats) Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Refused -= min(t.refused, s.Refused)
	s.WouldRefuse -= min(t.wouldBe, s.WouldRefuse)
	return s
}

// ErrRan is the answer of a test that saw a restriction not being in force.
var ErrRan = errors.New("self-test: a program that is not trusted ran all the same")

// Test returns nil if mode is seen to be in force, else an error whose text is
// a sentence for people.
func (t *Tester) Test(mode cordon.Mode) error {
	unknown, err := NewCanary()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(t.Dir, ".cordon-canary-")
	if err != nil {
		return fmt.Errorf("self-test: no canary can be put into the scope: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is a directory with two harmless files
	known, err := t.run(t.Trusted, filepath.Join(dir, "trusted"))
	if err != nil {
		return err
	}
	untrusted := filepath.Join(dir, "untrusted")
	t.mu.Lock()
	if len(t.untold) >= maxUntold {
		t.untold = nil // samples may be lost
	}
	if t.untold == nil {
		t.untold = map[string]bool{}
	}
	t.untold[untrusted] = true
	t.mu.Unlock()
	refused, err := t.run(unknown, untrusted)
	if err != nil {
		return err
	}
	t.mu.Lock()
	switch {
	case errors.Is(refused, unix.EPERM):
		t.refused++
	case refused == nil && mode == cordon.ModeAudit:
		t.wouldBe++
	}
	t.mu.Unlock()
	switch {
	case errors.Is(known, unix.EACCES):
		return fmt.Errorf("self-test: programs cannot be run in %s at all (is it mounted noexec?)", t.Dir)
	case known != nil:
		return fmt.Errorf("self-test: a trusted program was refused (%w)", known)
	case mode == cordon.ModeEnforce && refused == nil:
		return ErrRan
	case mode == cordon.ModeEnforce && !errors.Is(refused, unix.EPERM):
		return fmt.Errorf("self-test: a program that is not trusted failed with another error than EPERM (%w)", refused)
	case mode != cordon.ModeEnforce && refused != nil:
		return fmt.Errorf("self-test: a program was refused although the mode is %s (%w)", mode, refused)
	}
	return nil
}

// run puts the canary at path and has it run. verdict is nil if it ran, else
// the errno of execve(2).
func (t *Tester) run(c *Canary, path string) (verdict, err error) {
	if err := c.WriteFile(path); err != nil {
		return nil, fmt.Errorf("self-test: %w", err)
	}
	verdict, err = t.Guardian.Run(path)
	if err != nil {
		return nil, fmt.Errorf("self-test: %w", err)
	}
	return verdict, nil
}
