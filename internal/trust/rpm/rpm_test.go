package rpm

import (
	"bytes"
	"cmp"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/adler32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon/internal/trust/fixture"
)

func all(uint64) bool { return false }

// list reads every package of a database.
func list(t testing.TB, db *DB) ([]*Package, error) {
	t.Helper()
	var out []*Package
	err := db.Packages(all, func(p *Package) error { out = append(out, p); return nil })
	return out, err
}

func TestRealDatabase(t *testing.T) {
	for algo, name := range map[int]string{MD5: "md5", SHA256: "sha256", 10: "sha512"} {
		t.Run(name, func(t *testing.T) {
			root := fixture.NewRoot(t)
			root.InstallRPM([]string{fmt.Sprintf("_binary_filedigest_algorithm %d", algo)},
				fixture.Package{
					Name:      "tiny",
					Files:     map[string]fixture.File{"/usr/bin/tiny": {Content: "tiny\n"}, "/usr/share/a b": {Content: "x", Mode: 0o644}},
					Conffiles: map[string]fixture.File{"/etc/tiny.conf": {Content: "y=1\n", Mode: 0o640}},
					Scripts:   map[string]string{"/usr/bin/ghost": ""},
				},
				fixture.Package{Name: "void"})
			db, err := Open(root.Dir)
			if err != nil {
				t.Fatal(err)
			}
			packages, err := list(t, db)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range packages {
				got = append(got, fmt.Sprintf("%s algo %d known %t", p.Name, p.Algo, p.Known()))
				for _, f := range p.Files {
					got = append(got, describe(p.Name, f.Path, f.Size, f.Mode, f.Config, hex.EncodeToString(f.Digest)))
				}
			}
			sort.Strings(got)
			want := map[int][]string{
				MD5: {
					"tiny /etc/tiny.conf 4 100640 true " + md5hex("y=1\n"),
					"tiny /usr/bin/tiny 5 100755 false " + md5hex("tiny\n"),
					"tiny /usr/share/a b 1 100644 false " + md5hex("x"),
					"tiny algo 1 known true",
					"void algo 1 known true",
				},
				SHA256: {
					"tiny /etc/tiny.conf 4 100640 true " + shahex("y=1\n"),
					"tiny /usr/bin/tiny 5 100755 false " + shahex("tiny\n"),
					"tiny /usr/share/a b 1 100644 false " + shahex("x"),
					"tiny algo 8 known true",
					"void algo 1 known true",
				},
				10: {"tiny algo 10 known false", "void algo 1 known true"},
			}[algo]
			// Without files, rpmbuild names no algorithm.
			for i := range got {
				got[i] = strings.Replace(got[i], fmt.Sprintf("void algo %d known %t", algo, algo != 10), "void algo 1 known true", 1)
			}
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestStamps says that a stamp stays while the header does, over a new reading,
// and that a known header is not parsed.
func TestStamps(t *testing.T) {
	root := fixture.NewRoot(t)
	root.InstallRPM(nil, fixture.Package{Name: "one", Files: map[string]fixture.File{"/usr/bin/one": {Content: "1"}}},
		fixture.Package{Name: "two", Files: map[string]fixture.File{"/usr/bin/two": {Content: "2"}}})
	stamps := func() map[string]uint64 {
		db, err := Open(root.Dir)
		if err != nil {
			t.Fatal(err)
		}
		packages, err := list(t, db)
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]uint64{}
		for _, p := range packages {
			m[p.Name] = p.Stamp
		}
		return m
	}
	before := stamps()
	root.InstallRPM(nil, fixture.Package{Name: "two", Files: map[string]fixture.File{"/usr/bin/two": {Content: "zwei"}}})
	after := stamps()
	if before["one"] != after["one"] || before["two"] == after["two"] || after["one"] == 0 {
		t.Errorf("stamps before %v, after the second package changed %v", before, after)
	}
	db, err := Open(root.Dir)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Packages(func(s uint64) bool { return s == after["one"] }, func(p *Package) error {
		if parsed := p.Name != ""; parsed == (p.Stamp == after["one"]) {
			t.Errorf("package %q with stamp %d: parsed %t", p.Name, p.Stamp, parsed)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestReadingLeavesAlone says that reading changes nothing beside the database.
func TestReadingLeavesAlone(t *testing.T) {
	root := fixture.NewRoot(t)
	root.InstallRPM(nil, fixture.Package{Name: "one", Files: map[string]fixture.File{"/usr/bin/one": {Content: "1"}}})
	before, err := os.ReadFile(root.Path("var/lib/rpm/rpmdb.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := Open(root.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := list(t, db); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(db.path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("reading the database has changed it")
	}
}

func TestNone(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNone) {
		t.Errorf("an empty root gives %v, want ErrNone", err)
	}
}

// TestForms writes the same packages in each form that can be written here, and
// expects the same from all.
func TestForms(t *testing.T) {
	headers := [][]byte{
		testHeader("bash", SHA256, testFile{"/usr/bin/", "bash", "bash!", 0o100755, 0, 0}, testFile{"/usr/bin/", "sh", "", 0o120777, 0, 0}),
		testHeader("kernel", SHA256, testFile{"/boot/", "vmlinuz", strings.Repeat("k", 9000), 0o100644, 0, 0}),
		testHeader("old", MD5, testFile{"/etc/", "old.conf", "c", 0o100644, flagConfig, 0}, testFile{"/var/log/", "old.log", "", 0o100644, flagGhost, 0},
			testFile{"/usr/bin/", "replaced", "r", 0o100755, 0, 1}),
		testHeader("gpg-pubkey", 0),
	}
	headers[1] = append(headers[1], bytes.Repeat([]byte{0}, 9000)...) // more than a page
	binary.BigEndian.PutUint32(headers[1][4:], binary.BigEndian.Uint32(headers[1][4:])+9000)
	want := []string{
		"bash /usr/bin/bash 5 100755 false " + shahex("bash!"),
		"kernel /boot/vmlinuz 9000 100644 false " + shahex(strings.Repeat("k", 9000)),
		"old /etc/old.conf 1 100644 true " + md5hex("c"),
	}
	for name, b := range map[string][]byte{
		"Packages.db":  testNDB(headers...),
		"Packages":     testBDB(binary.LittleEndian, headers...),
		"big/Packages": testBDB(binary.BigEndian, headers...),
		"rpmdb.sqlite": testSQLite(t, headers...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "var/lib/rpm", filepath.Base(name))
			if err := cmp.Or(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
				t.Fatal(err)
			}
			db, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			packages, err := list(t, db)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range packages {
				for _, f := range p.Files {
					got = append(got, describe(p.Name, f.Path, f.Size, f.Mode, f.Config, hex.EncodeToString(f.Digest)))
				}
			}
			sort.Strings(got)
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if len(packages) != len(headers) {
				t.Errorf("%d packages, want %d", len(packages), len(headers))
			}
		})
	}
}

// TestCutOff cuts each form of the database at every length: whatever is read
// then is an error, and never fewer packages.
func TestCutOff(t *testing.T) {
	header := testHeader("bash", SHA256, testFile{"/usr/bin/", "bash", "bash!", 0o100755, 0, 0})
	headers := [][]byte{header, testHeader("dash", MD5, testFile{"/usr/bin/", "dash", "d", 0o100755, 0, 0}), header}
	for name, whole := range map[string][]byte{
		"Packages.db":  testNDB(headers...),
		"Packages":     testBDB(binary.LittleEndian, headers...),
		"rpmdb.sqlite": testSQLite(t, headers...),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			step := max(len(whole)/257, 1) // SQLite files are large, and slow to open
			for n := 0; n < len(whole); n += step {
				if err := os.WriteFile(path, whole[:n], 0o644); err != nil {
					t.Fatal(err)
				}
				packages, err := list(t, &DB{path: path, each: formOf(name)})
				if err == nil && len(packages) < len(headers) {
					t.Fatalf("cut off after %d of %d bytes: %d packages and no error", n, len(whole), len(packages))
				}
				if err != nil && !strings.Contains(err.Error(), path) {
					t.Fatalf("the error does not name the file: %v", err)
				}
			}
			if err := os.WriteFile(path, whole[:len(whole)-1], 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := list(t, &DB{path: path, each: formOf(name)})
			if err == nil || !strings.Contains(err.Error(), "cut off") && name != "rpmdb.sqlite" { // SQLite has its own words
				t.Errorf("a byte is missing, and the error is %v", err)
			}
		})
	}
}

// TestDamage changes bytes at random: whatever is read then is an error or has
// every package.
func TestDamage(t *testing.T) {
	var headers [][]byte
	for i := range 40 {
		headers = append(headers, testHeader(fmt.Sprint("package", i), SHA256, testFile{"/usr/bin/", fmt.Sprint(i), "x", 0o100755, 0, 0}))
	}
	for name, whole := range map[string][]byte{
		"Packages.db":  testNDB(headers...),
		"Packages":     testBDB(binary.BigEndian, headers[:14]...), // as many as fit on a page
		"rpmdb.sqlite": testSQLite(t, headers...),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			want := len(headers)
			if name == "Packages" {
				want = 14
			}
			found := 0
			for seed := range uint64(300) {
				r := rand.New(rand.NewPCG(seed, 0))
				b := bytes.Clone(whole)
				for range 1 + r.IntN(8) {
					b[r.IntN(len(b))] = byte(r.Uint32())
				}
				if err := os.WriteFile(path, b, 0o644); err != nil {
					t.Fatal(err)
				}
				packages, err := list(t, &DB{path: path, each: formOf(name)})
				if err == nil && len(packages) != want {
					t.Errorf("seed %d: %d packages of %d and no error", seed, len(packages), want)
				}
				if err != nil {
					found++
				}
			}
			if found == 0 {
				t.Error("no damage was ever found")
			}
		})
	}
}

func TestBrokenHeaders(t *testing.T) {
	good := testFile{"/usr/bin/", "x", "x", 0o100755, 0, 0}
	for name, c := range map[string]struct {
		header []byte
		want   string
	}{
		"empty":            {nil, "shorter than its introduction"},
		"no name":          {testHeader("", SHA256, good), "has no name"},
		"cut off":          {testHeader("p", SHA256, good)[:60], "says "},
		"relative path":    {testHeader("p", SHA256, testFile{"usr/bin/", "x", "x", 0o100755, 0, 0}), "no absolute path"},
		"climbing path":    {testHeader("p", SHA256, testFile{"/usr/../", "x", "x", 0o100755, 0, 0}), "climbs out"},
		"no entries":       {make([]byte, 8), "says 0 entries"},
		"digest too short": {rawHeader(baseTags("p", SHA256, []string{"ab"}, good)), `has "ab" for a digest`},
		"digests missing":  {rawHeader(baseTags("p", SHA256, nil, good)), "1 files, but 0 digests"},
	} {
		t.Run(name, func(t *testing.T) {
			err := (&Package{}).parse(c.header)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestChecksum says that a changed byte in an NDB blob is seen.
func TestChecksum(t *testing.T) {
	b := testNDB(testHeader("bash", SHA256, testFile{"/usr/bin/", "bash", "bash!", 0o100755, 0, 0}))
	b[len(b)-40] ^= 1
	path := filepath.Join(t.TempDir(), "Packages.db")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := list(t, &DB{path: path, each: eachNDB})
	if err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("got %v, want an error about the checksum", err)
	}
}

// TestFewerRows says that headers which SQLite does not see are missed.
func TestFewerRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rpmdb.sqlite")
	if err := os.WriteFile(path, testSQLite(t, seedHeaders()...), 0o644); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("DELETE FROM Packages WHERE hnum = 2")
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := list(t, &DB{path: path, each: eachSQLite}); err == nil || !strings.Contains(err.Error(), "has 2 package headers, but names for 3") {
		t.Errorf("got %v", err)
	}
}

// TestLostPage says that a page of the table that is none any more is missed.
func TestLostPage(t *testing.T) {
	for typ, want := range map[byte]string{pageFree: "pages belong to no package", pageOverflow: "pages belong to no package", 5: "page 1 has type 5"} {
		b := testBDB(binary.LittleEndian, seedHeaders()...)
		b[512+25] = typ
		path := filepath.Join(t.TempDir(), "Packages")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := list(t, &DB{path: path, each: eachBDB}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("type %d: got %v, want %q", typ, err, want)
		}
	}
}

// TestCircle has a chain of pages run in a circle.
func TestCircle(t *testing.T) {
	b := testBDB(binary.LittleEndian, append(testHeader("p", SHA256), make([]byte, 3000)...))
	for page := 0; page+512 <= len(b); page += 512 {
		if b[page+25] == pageOverflow {
			binary.LittleEndian.PutUint32(b[page+16:], uint32(page/512))
		}
	}
	path := filepath.Join(t.TempDir(), "Packages")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := list(t, &DB{path: path, each: eachBDB}); err == nil {
		t.Error("no error")
	}
}

func fuzzForm(f *testing.F, name string, seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
		f.Add(s[:len(s)/2])
	}
	path := filepath.Join(f.TempDir(), name)
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		packages, err := list(t, &DB{path: path, each: formOf(name)})
		if err != nil {
			return
		}
		checkPackages(t, packages)
	})
}

// checkPackages says what everybody may rely on.
func checkPackages(t *testing.T, packages []*Package) {
	for _, p := range packages {
		if p.Name == "" || p.Stamp == 0 {
			t.Errorf("package %q with stamp %d", p.Name, p.Stamp)
		}
		for _, f := range p.Files {
			if !filepath.IsAbs(f.Path) || filepath.Clean(f.Path) != f.Path || len(f.Digest) != digestSize(p.Algo) || f.Mode&modeType != modeRegular {
				t.Errorf("file %+v", f)
			}
		}
	}
}

func seedHeaders() [][]byte {
	return [][]byte{
		testHeader("bash", SHA256, testFile{"/usr/bin/", "bash", "bash!", 0o100755, 0, 0}, testFile{"/etc/", "rc", "1", 0o100644, flagConfig, 0}),
		testHeader("old", MD5, testFile{"/usr/bin/", "old", "old", 0o100755, 0, 0}),
		testHeader("gpg-pubkey", 0),
	}
}

func FuzzHeader(f *testing.F) {
	for _, h := range seedHeaders() {
		f.Add(h)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &Package{Stamp: 1}
		if p.parse(b) == nil {
			checkPackages(t, []*Package{p})
		}
	})
}

func FuzzNDB(f *testing.F) { fuzzForm(f, "Packages.db", testNDB(seedHeaders()...)) }

func FuzzBDB(f *testing.F) {
	fuzzForm(f, "Packages", testBDB(binary.LittleEndian, seedHeaders()...), testBDB(binary.BigEndian, seedHeaders()...))
}

func FuzzSQLite(f *testing.F) { fuzzForm(f, "rpmdb.sqlite", testSQLite(f, seedHeaders()...)) }

// What follows writes databases.

type testFile struct {
	dir, base, content string
	mode               uint16
	flags              uint32
	state              byte
}

func testHeader(name string, algo int, files ...testFile) []byte {
	digests := make([]string, len(files))
	for i, f := range files {
		switch {
		case f.mode&modeType != modeRegular || f.flags&flagGhost != 0:
		case algo == MD5:
			digests[i] = md5hex(f.content)
		default:
			digests[i] = shahex(f.content)
		}
	}
	return rawHeader(baseTags(name, algo, digests, files...))
}

type tag struct {
	number, typ, count int
	data               []byte
}

func baseTags(name string, algo int, digests []string, files ...testFile) []tag {
	tags := []tag{{tagName, typeString, 1, []byte(name + "\x00")}}
	if len(files) == 0 {
		return tags
	}
	var sizes, modes, flags, indexes, states []byte
	var bases, dirs []string
	for _, f := range files {
		if !slices.Contains(dirs, f.dir) {
			dirs = append(dirs, f.dir)
		}
		bases = append(bases, f.base)
		sizes = binary.BigEndian.AppendUint32(sizes, uint32(len(f.content)))
		modes = binary.BigEndian.AppendUint16(modes, f.mode)
		flags = binary.BigEndian.AppendUint32(flags, f.flags)
		indexes = binary.BigEndian.AppendUint32(indexes, uint32(slices.Index(dirs, f.dir)))
		states = append(states, f.state)
	}
	n := len(files)
	list := func(number int, s []string) tag {
		return tag{number, typeStringArray, len(s), []byte(strings.Join(s, "\x00") + "\x00")}
	}
	tags = append(tags,
		tag{tagFileSizes, typeInt32, n, sizes}, tag{tagFileStates, typeChar, n, states}, tag{tagFileModes, typeInt16, n, modes},
		tag{tagFileFlags, typeInt32, n, flags}, tag{tagDirIndexes, typeInt32, n, indexes},
		list(tagBaseNames, bases), list(tagDirNames, dirs),
		tag{tagFileDigestAlgo, typeInt32, 1, binary.BigEndian.AppendUint32(nil, uint32(algo))})
	if len(digests) > 0 {
		tags = append(tags, list(tagFileDigests, digests))
	}
	return tags
}

func rawHeader(tags []tag) []byte {
	var index, store []byte
	for _, t := range tags {
		for w := 4; len(store)%w != 0; {
			store = append(store, 0)
		}
		for _, v := range []int{t.number, t.typ, len(store), t.count} {
			index = binary.BigEndian.AppendUint32(index, uint32(v))
		}
		store = append(store, t.data...)
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(tags)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(store)))
	return slices.Concat(b, index, store)
}

func testNDB(headers ...[]byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, 4096)
	copy(b, "RpmP")
	le.PutUint32(b[12:], 1)
	for at := 32; at < len(b); at += 16 {
		copy(b[at:], "Slot")
	}
	for i, h := range headers {
		n := uint32(i + 1)
		blob := le.AppendUint32([]byte("BlbS"), n)
		blob = le.AppendUint32(blob, 12345)
		blob = le.AppendUint32(blob, uint32(len(h)))
		blob = append(blob, h...)
		for (len(blob)+12)%16 != 0 {
			blob = append(blob, 0)
		}
		sum := adler32.Checksum(blob)
		blob = le.AppendUint32(blob, sum)
		blob = le.AppendUint32(blob, uint32(len(h)))
		blob = append(blob, "BlbE"...)
		slot := b[32+16*i:]
		le.PutUint32(slot[4:], n)
		le.PutUint32(slot[8:], uint32(len(b)/16))
		le.PutUint32(slot[12:], uint32(len(blob)/16))
		b = append(b, blob...)
	}
	return b
}

// testBDB writes a hash table with pages of 512 bytes: the first page, one page
// of items, and the overflow pages.
func testBDB(order binary.ByteOrder, headers ...[]byte) []byte {
	const size = 512
	meta, items := make([]byte, size), make([]byte, size)
	var overflow []byte
	order.PutUint32(meta[12:], bdbMagic)
	order.PutUint32(meta[20:], size)
	meta[25] = pageHashMeta
	items[25] = pageHash
	end, n := size, 0
	put := func(item []byte) {
		end -= len(item)
		copy(items[end:], item)
		order.PutUint16(items[pageHeader+2*n:], uint16(end))
		n++
	}
	number := func(i int) []byte {
		b := make([]byte, 5)
		b[0] = itemInline
		order.PutUint32(b[1:], uint32(i))
		return b
	}
	put(number(0))
	put(number(len(headers) + 1))
	for i, h := range headers {
		item := make([]byte, 12)
		item[0] = itemOverflow
		order.PutUint32(item[4:], uint32(2+len(overflow)/size))
		order.PutUint32(item[8:], uint32(len(h)))
		put(number(i + 1))
		put(item)
		for len(h) > 0 {
			page := make([]byte, size)
			used := copy(page[pageHeader:], h)
			h = h[used:]
			page[25] = pageOverflow
			order.PutUint16(page[22:], uint16(used))
			overflow = append(overflow, page...)
			if len(h) > 0 {
				order.PutUint32(overflow[len(overflow)-size+16:], uint32(2+len(overflow)/size))
			}
		}
	}
	order.PutUint16(items[20:], uint16(n))
	order.PutUint32(meta[32:], uint32(1+len(overflow)/size))
	return slices.Concat(meta, items, overflow)
}
