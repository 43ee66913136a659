package cordon_test

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
)

func digest(content string) cordon.Digest { return sha256.Sum256([]byte(content)) }

func fileID(n uint64) cordon.FileID {
	return cordon.FileID{Dev: 1, Ino: n, Size: 2, Mtime: 3, Ctime: 4}
}

func TestTrustSet(t *testing.T) {
	entries := []cordon.TrustEntry{
		{Digest: digest("ls"), Size: 100, Origin: "dpkg:coreutils"},
		{Digest: digest("bash"), Size: 200, Origin: "dpkg:bash"},
		{Digest: digest("ls"), Size: 100, Origin: "rule:tools.rules:3"},
	}
	files := []cordon.KnownFile{{ID: fileID(1), Digest: digest("ls")}, {ID: fileID(2), Digest: digest("malware")}, {ID: fileID(3), Digest: digest("bash")}}
	s := cordon.NewTrustSet(entries, files)
	if s.Len() != 2 {
		t.Errorf("%d contents", s.Len())
	}
	if !s.Contains(digest("ls")) || !s.Contains(digest("bash")) || s.Contains(digest("malware")) || s.Contains(cordon.Digest{}) {
		t.Error("contains the wrong contents")
	}
	if o, ok := s.Origin(digest("ls")); o != "dpkg:coreutils" || !ok {
		t.Errorf("origin %q, %v: the first entry does not win", o, ok)
	}
	if o, ok := s.Origin(digest("malware")); o != "" || ok {
		t.Errorf("origin of an untrusted content: %q, %v", o, ok)
	}
	if !s.MayHaveSize(100) || !s.MayHaveSize(200) || s.MayHaveSize(150) || s.MayHaveSize(0) {
		t.Error("wrong sizes")
	}
	if !s.Knows(fileID(1)) || !s.Knows(fileID(3)) {
		t.Error("does not know its files")
	}
	if s.Knows(fileID(2)) || s.Knows(fileID(9)) {
		t.Error("knows a file whose content is not trusted")
	}
	for _, changed := range []cordon.FileID{
		{Dev: 9, Ino: 1, Size: 2, Mtime: 3, Ctime: 4}, {Dev: 1, Ino: 9, Size: 2, Mtime: 3, Ctime: 4}, {Dev: 1, Ino: 1, Size: 9, Mtime: 3, Ctime: 4},
		{Dev: 1, Ino: 1, Size: 2, Mtime: 9, Ctime: 4}, {Dev: 1, Ino: 1, Size: 2, Mtime: 3, Ctime: 9},
	} {
		if s.Knows(changed) {
			t.Errorf("knows a changed file: %+v", changed)
		}
	}
	twice := cordon.NewTrustSet([]cordon.TrustEntry{{Digest: digest("a"), Origin: "x"}, {Digest: digest("b")}, {Digest: digest("a"), Role: cordon.Shell}, {Digest: digest("a"), Role: cordon.Perl}}, nil)
	for e := range twice.Entries() {
		if e.Digest == digest("a") && (e.Role != cordon.Shell || e.Origin != "x") || e.Digest == digest("b") && e.Role != cordon.NoRole {
			t.Errorf("the role of several entries is not the highest: %+v", e)
		}
	}
	// It keeps neither slice.
	entries[1].Digest, files[2].ID = digest("malware"), fileID(9)
	if s.Contains(digest("malware")) || s.Knows(fileID(9)) {
		t.Error("changed from outside")
	}
	if h := digest("").String(); h != "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Error(h)
	}
}

func TestTrustSetOfUnknownSize(t *testing.T) {
	s := cordon.NewTrustSet([]cordon.TrustEntry{{Digest: digest("ls"), Size: 100}, {Digest: digest("tool"), Size: -1}}, nil)
	if !s.MayHaveSize(12345) {
		t.Error("a content of unknown size is ruled out by its size")
	}
}

func TestEmptyTrustSet(t *testing.T) {
	s := cordon.NewTrustSet(nil, []cordon.KnownFile{{ID: fileID(1)}})
	if s.Len() != 0 || s.Contains(cordon.Digest{}) || s.Knows(fileID(1)) || s.MayHaveSize(0) {
		t.Error("an empty set trusts something")
	}
	if s.Version() != digest("") {
		t.Errorf("version %s", s.Version())
	}
}

// The set is what a map from digest to entry would be, whatever the order of
// the entries; only which of two origins wins depends on it.
func TestTrustSetIsAMap(t *testing.T) {
	contents := rapid.IntRange(0, 12)
	rapid.Check(t, func(t *rapid.T) {
		want, known, sizes := map[cordon.Digest]string{}, map[cordon.FileID]cordon.Digest{}, map[int64]bool{}
		var entries []cordon.TrustEntry
		for i := range rapid.IntRange(0, 20).Draw(t, "entries") {
			c := contents.Draw(t, "content")
			e := cordon.TrustEntry{Digest: digest(fmt.Sprint(c)), Size: int64(c % 5), Origin: fmt.Sprint("origin ", i)}
			entries = append(entries, e)
			sizes[e.Size] = true
			if _, ok := want[e.Digest]; !ok {
				want[e.Digest] = e.Origin
			}
		}
		var files []cordon.KnownFile
		for i := range rapid.IntRange(0, 20).Draw(t, "files") {
			f := cordon.KnownFile{ID: fileID(uint64(i)), Digest: digest(fmt.Sprint(contents.Draw(t, "content of file")))}
			files, known[f.ID] = append(files, f), f.Digest
		}
		s := cordon.NewTrustSet(entries, files)
		if s.Len() != len(want) {
			t.Fatalf("%d contents, want %d", s.Len(), len(want))
		}
		for c := range 13 {
			d := digest(fmt.Sprint(c))
			origin, in := want[d]
			if got, ok := s.Origin(d); got != origin || ok != in || s.Contains(d) != in {
				t.Fatalf("content %d: %q %v, want %q %v", c, got, ok, origin, in)
			}
			if s.MayHaveSize(int64(c)) != sizes[int64(c)] {
				t.Fatalf("size %d: %v", c, s.MayHaveSize(int64(c)))
			}
		}
		for i := range uint64(20) {
			_, in := want[known[fileID(i)]]
			if s.Knows(fileID(i)) != in {
				t.Fatalf("file %d: %v, want %v", i, !in, in)
			}
		}
		shuffled := rapid.Permutation(entries).Draw(t, "shuffled")
		if other := cordon.NewTrustSet(shuffled, nil); other.Version() != s.Version() {
			t.Fatal("the version depends on the order of the entries")
		}
		if more := cordon.NewTrustSet(append(slices.Clone(entries), cordon.TrustEntry{Digest: digest("new")}), nil); more.Version() == s.Version() {
			t.Fatal("the version does not depend on the contents")
		}
	})
}

// Its methods are called while a program waits for its verdict.
func TestTrustSetDoesNotAllocate(t *testing.T) {
	var entries []cordon.TrustEntry
	var files []cordon.KnownFile
	for i := range 100 {
		entries = append(entries, cordon.TrustEntry{Digest: digest(fmt.Sprint(i)), Size: int64(i)})
		files = append(files, cordon.KnownFile{ID: fileID(uint64(i)), Digest: digest(fmt.Sprint(i))})
	}
	s, d, id := cordon.NewTrustSet(entries, files), digest("50"), fileID(50)
	if n := testing.AllocsPerRun(100, func() {
		if !s.Contains(d) || !s.Knows(id) || !s.MayHaveSize(50) {
			t.Fatal("not found")
		}
		_, _ = s.Origin(d) // only what it allocates counts
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestCovers(t *testing.T) {
	entry := func(b byte) cordon.TrustEntry { return cordon.TrustEntry{Digest: cordon.Digest{b}} }
	none, one := cordon.NewTrustSet(nil, nil), cordon.NewTrustSet([]cordon.TrustEntry{entry(1)}, nil)
	both, other := one.With(entry(2)), cordon.NewTrustSet([]cordon.TrustEntry{entry(2), entry(3)}, nil)
	for _, c := range []struct {
		s, of *cordon.TrustSet
		want  bool
	}{{none, none, true}, {one, none, true}, {none, one, false}, {both, one, true}, {one, both, false}, {other, both, false}} {
		if got := c.s.Covers(c.of); got != c.want {
			t.Errorf("a set of %d covers one of %d: %v", c.s.Len(), c.of.Len(), got)
		}
	}
}
