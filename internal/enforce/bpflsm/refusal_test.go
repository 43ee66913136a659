package bpflsm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

// Whoever is refused has a file hashed once for each content and policy, and not
// for each attempt; and what has become trusted runs.
func testTriedAgain(t *testing.T, g *guest) {
	hashed := func() (n uint64) {
		var each []uint64
		if err := g.maps["counters"].Lookup(countHashed, &each); err != nil {
			t.Fatal(err)
		}
		for _, v := range each {
			n += v
		}
		return n
	}
	stranger := append([]byte{}, g.program...)
	stranger[len(stranger)-1] ^= 1
	other := []byte(strings.Replace(trustedScript, "0", "7", 1))
	for i, c := range []struct {
		what    string
		content []byte
		then    func(path string) error // after it was refused
		hashed  uint64                  // at three more attempts, if it does not run
		runs    bool
	}{
		{"nothing", stranger, func(string) error { return nil }, 0, false},
		{"opened for writing", stranger, func(path string) error { return open(t, path, os.O_WRONLY).Close() }, 1, false},
		{"written to", other, func(path string) error { return os.WriteFile(path, []byte(trustedScript), 0) }, 0, true},
		{"another policy", stranger, func(string) error { return g.Apply(cordon.ModeEnforce, g.set.With(entry([]byte("x")))) }, 1, false},
		{"a policy that trusts it", stranger, func(string) error { return g.Apply(cordon.ModeEnforce, g.set.With(entry(stranger))) }, 0, true},
	} {
		g.apply(t, cordon.ModeEnforce)
		path := g.write(t, fmt.Sprintf("stranger%d", i), c.content)
		before := hashed()
		for range 5 {
			g.refused(t, c.what+", before", func() error { return run(path) })
		}
		if n := hashed() - before; n != 1 {
			t.Errorf("%s: five attempts were hashed %d times", c.what, n)
		}
		if err := c.then(path); err != nil {
			t.Fatal(err)
		}
		if c.runs {
			allowed(t, c.what, run(path))
			continue
		}
		before = hashed()
		for range 3 {
			g.refused(t, c.what, func() error { return run(path) })
		}
		if n := hashed() - before; n != c.hashed {
			t.Errorf("%s: three more attempts were hashed %d times", c.what, n)
		}
	}
	g.apply(t, cordon.ModeEnforce)
	g.drain()
	path := g.write(t, "told", stranger)
	for range 2 {
		g.refused(t, "told of", func() error { return run(path) })
		r := <-g.Refusals()
		for r.Path != path { // what was on its way
			r = <-g.Refusals()
		}
		if r.Digest != sha256.Sum256(stranger) || r.Reason != "it is not in the trust set" {
			t.Errorf("told of %+v", r)
		}
	}
}

// drain takes all samples that there are.
func (g *guest) drain() {
	for g.reader.AvailableBytes() > 0 || len(g.Refusals()) > 0 {
		select {
		case <-g.Refusals():
		default:
			runtime.Gosched()
		}
	}
}

func testToldAtTheEnd(t *testing.T, g *guest) {
	g.drain()
	evil := g.write(t, "last", g.evil("last"))
	for range 3 {
		g.refused(t, "the last ones", func() error { return run(evil) })
	}
	g.apply(t, cordon.ModeOff)
	before := g.Stats()
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	g.closed = true
	n := 0
	for r := range g.Refusals() {
		if r.Path == evil {
			n++
		}
	}
	if n != 3 || g.Stats() != before {
		t.Errorf("%d of 3 refusals are told; counted %+v, before %+v", n, g.Stats(), before)
	}
}

func testFlood(t *testing.T, g *guest, evil string) {
	f := open(t, evil, os.O_RDONLY)
	before := g.Stats()
	const n = 3000 // far more than the samples' buffer holds
	for range n {
		if _, err := unix.Mmap(int(f.Fd()), 0, 4096, rx, unix.MAP_PRIVATE); !errors.Is(err, unix.EPERM) {
			t.Fatalf("in the flood: %v", err)
		}
	}
	if s := g.Stats(); s.Refused-before.Refused != n || s.Judged-before.Judged != n {
		t.Errorf("counted %+v, before %+v, want %d more", s, before, n)
	}
	g.drain()
}
