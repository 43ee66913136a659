package dpkg

import (
	"crypto/md5"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon/internal/trust/fixture"
)

func sum(s string) string { return fmt.Sprintf("%x", md5.Sum([]byte(s))) }

func open(t testing.TB, root *fixture.Root) *DB {
	t.Helper()
	db, err := Open(root.Dir, fixture.Age())
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// list describes every file of every package.
func list(t testing.TB, db *DB) []string {
	t.Helper()
	var out []string
	for _, p := range db.Packages() {
		err := db.Files(&p, func(f File) error {
			kind := ""
			if f.Conffile {
				kind = " conffile"
			}
			if f.Script {
				kind = " script"
			}
			out = append(out, fmt.Sprintf("%s:%s %s %x%s", p.Name, p.Arch, f.Path, f.MD5, kind))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(out)
	return out
}

func TestDatabase(t *testing.T) {
	root := fixture.NewRoot(t)
	file := func(c string) fixture.File { return fixture.File{Content: c} }
	root.Install(
		fixture.Package{Name: "bash", Files: map[string]fixture.File{"/bin/bash": file("b"), "/usr/share/a  b": file("two spaces")},
			Conffiles: map[string]fixture.File{"/etc/bash.bashrc": file("rc")}, Scripts: map[string]string{"postinst": "#!/bin/sh\n"}},
		fixture.Package{Name: "libc6", Same: true, Files: map[string]fixture.File{"/lib/x86_64-linux-gnu/libc.so.6": file("64")}},
		fixture.Package{Name: "libc6", Arch: "i386", Same: true, Files: map[string]fixture.File{"/lib/i386-linux-gnu/libc.so.6": file("32")}},
		fixture.Package{Name: "held", Status: "hold ok installed", Files: map[string]fixture.File{"/usr/bin/held": file("h")}},
		fixture.Package{Name: "half", Status: "install reinstreq half-installed", Files: map[string]fixture.File{"/usr/bin/half": file("h")}},
		fixture.Package{Name: "trig", Status: "install ok triggers-pending", Files: map[string]fixture.File{"/usr/bin/trig": file("t")}},
		fixture.Package{Name: "gone", Status: "deinstall ok config-files", Files: map[string]fixture.File{"/usr/bin/gone": file("g")}},
		fixture.Package{Name: "meta", NoSums: true},
	)
	db := open(t, root)
	want := []string{
		"bash:amd64 /bin/bash " + sum("b"),
		"bash:amd64 /etc/bash.bashrc " + sum("rc") + " conffile",
		"bash:amd64 /usr/share/a  b " + sum("two spaces"),
		"bash:amd64 /var/lib/dpkg/info/bash.postinst 00000000000000000000000000000000 script",
		"half:amd64 /usr/bin/half " + sum("h"),
		"held:amd64 /usr/bin/held " + sum("h"),
		"libc6:amd64 /lib/x86_64-linux-gnu/libc.so.6 " + sum("64"),
		"libc6:i386 /lib/i386-linux-gnu/libc.so.6 " + sum("32"),
		"trig:amd64 /usr/bin/trig " + sum("t"),
	}
	if diff := cmp.Diff(want, list(t, db)); diff != "" {
		t.Error(diff)
	}
	for _, p := range db.Packages() {
		if p.Sums == (p.Name == "meta") || p.Stamp == 0 {
			t.Errorf("package %s: Sums %t, Stamp %d", p.Name, p.Sums, p.Stamp)
		}
	}
}

func TestDiversions(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(
		fixture.Package{Name: "linux-perf", Files: map[string]fixture.File{"/usr/bin/perf": {Content: "wrapper"}}},
		fixture.Package{Name: "perf-real", Files: map[string]fixture.File{"/usr/bin/perf.real": {Content: "x"}}})
	before := open(t, root).Packages()
	root.Write("var/lib/dpkg/diversions",
		"/usr/bin/perf\n/usr/bin/perf.distrib\nother\n/usr/bin/perf.real\n/usr/bin/perf.local\n:\n", 0o644)
	root.Install(fixture.Package{Name: "other", Files: map[string]fixture.File{"/usr/bin/perf": {Content: "other's"}}})
	db := open(t, root)
	want := []string{
		"linux-perf:amd64 /usr/bin/perf.distrib " + sum("wrapper"),
		"other:amd64 /usr/bin/perf " + sum("other's"),
		"perf-real:amd64 /usr/bin/perf.local " + sum("x"),
	}
	if diff := cmp.Diff(want, list(t, db)); diff != "" {
		t.Error(diff)
	}
	if before[0].Stamp == db.Packages()[0].Stamp {
		t.Error("diverting a file did not change the package's stamp")
	}
}

// TestJournal says that the journal of a running dpkg counts more than status.
func TestJournal(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(fixture.Package{Name: "a", Files: map[string]fixture.File{"/a": {Content: "a"}}},
		fixture.Package{Name: "b", Status: "install ok not-installed", Files: map[string]fixture.File{"/b": {Content: "b"}}})
	stanza := "Package: %s\nStatus: install ok %s\nArchitecture: amd64\n" // no blank line follows, unlike in status
	root.Write("var/lib/dpkg/updates/0000", fmt.Sprintf(stanza, "b", "half-configured"), 0o644)
	root.Write("var/lib/dpkg/updates/0001", fmt.Sprintf(stanza, "a", "not-installed"), 0o644)
	root.Write("var/lib/dpkg/updates/tmp.i", "Pack", 0o644) // what dpkg is just writing
	if diff := cmp.Diff([]string{"b:amd64 /b " + sum("b")}, list(t, open(t, root))); diff != "" {
		t.Error(diff)
	}
}

func TestStamps(t *testing.T) {
	root := fixture.NewRoot(t)
	one := fixture.Package{Name: "one", Files: map[string]fixture.File{"/usr/bin/one": {Content: "1"}},
		Conffiles: map[string]fixture.File{"/etc/one": {Content: "c"}}, Scripts: map[string]string{"postinst": "p"}}
	root.Install(one, fixture.Package{Name: "two", Files: map[string]fixture.File{"/usr/bin/two": {Content: "2"}}})
	stamps := func() map[string]uint64 {
		m := map[string]uint64{}
		for _, p := range open(t, root).Packages() {
			m[p.Name] = p.Stamp
		}
		return m
	}
	last := stamps()
	if diff := cmp.Diff(last, stamps()); diff != "" {
		t.Error("stamps change while nothing else does", diff)
	}
	for name, change := range map[string]func(){
		"md5sums":  func() { one.Files = map[string]fixture.File{"/usr/bin/one": {Content: "eins"}} },
		"conffile": func() { one.Conffiles = map[string]fixture.File{"/etc/one": {Content: "d"}} },
		"script":   func() { one.Scripts = map[string]string{"postinst": "p", "prerm": "r"} },
	} {
		change()
		root.Install(one)
		now := stamps()
		if now["one"] == last["one"] || now["two"] != last["two"] {
			t.Errorf("%s changed: stamps %v, before %v", name, now, last)
		}
		last = now
	}
	db, err := Open(root.Dir, root.Changed("var/lib/dpkg/info/one.md5sums"))
	if err != nil {
		t.Fatal(err)
	}
	if s := db.Packages()[0].Stamp; s != 0 {
		t.Errorf("md5sums written just now: stamp %d, want 0", s)
	}
}

func TestNone(t *testing.T) {
	for name, make := range map[string]func(*fixture.Root){
		"nothing":      func(*fixture.Root) {},
		"empty status": func(r *fixture.Root) { r.Write("var/lib/dpkg/status", "", 0o644) },
	} {
		root := fixture.NewRoot(t)
		make(root)
		if _, err := Open(root.Dir, fixture.Age()); !errors.Is(err, ErrNone) {
			t.Errorf("%s: got %v, want ErrNone", name, err)
		}
	}
}

// TestBroken says that nothing that is broken makes the result smaller, and that
// the error names the place.
func TestBroken(t *testing.T) {
	const status, info = "var/lib/dpkg/status", "var/lib/dpkg/info/"
	entry := "Package: %s\nStatus: install ok installed\nArchitecture: amd64\n\n"
	write := func(path, content string) func(*fixture.Root) {
		return func(r *fixture.Root) { r.Write(path, content, 0o644) }
	}
	for name, c := range map[string]struct {
		do   func(*fixture.Root)
		want string
	}{
		"status cut off in a line":    {write(status, "Package: a\nStat"), "status:2: the file is cut off in the middle of a line"},
		"status cut off in an entry":  {write(status, "Package: a\nStatus: install ok installed\n"), "status:2: the file is cut off in the middle of the entry that begins at line 1"},
		"status cut off after a":      {write(status, fmt.Sprintf(entry, "a")), `ends after package "a", but`},
		"status emptied":              {write(status, ""), `ends after package "", but`},
		"status full of zeros":        {write(status, strings.Repeat("\x00", 64)+"\n"), "status:1: malformed line: a NUL byte"},
		"status without field":        {write(status, "Package a\n\n"), "status:1: malformed line: no field name"},
		"status without package":      {write(status, "Status: install ok installed\n\n"), "status:1: malformed entry"},
		"status begins in the middle": {write(status, " of a field\n\n"), "status:1: malformed line: a continuation of nothing"},
		"status with two words":       {write(status, "Package: a\nStatus: install ok\n\n"), "status:2: malformed line"},
		"status lists twice":          {write(status, fmt.Sprintf(entry+entry, "a", "a")), "status:5: package \"a\" (amd64) is listed twice"},
		"a name that is a path":       {write(status, fmt.Sprintf(entry, "../a")), "status:1: malformed line"},
		"conffile without digest":     {write(status, "Package: a\nStatus: install ok installed\nConffiles:\n /etc/a\n\n"), "status:4: malformed line"},
		"conffile that climbs":        {write(status, "Package: a\nStatus: install ok installed\nConffiles:\n /etc/../../a "+sum("")+"\n\n"), "status:4: malformed line"},
		"journal cut off":             {write("var/lib/dpkg/updates/0007", "Package: a\n"), "updates/0007:1: the file is cut off"},
		"md5sums cut off":             {write(info+"b.md5sums", sum("b")+"  usr/bin"), "b.md5sums:1: the file is cut off"},
		"md5sums without a digest":    {write(info+"b.md5sums", sum("b")+"  b\nusr/bin/b\n"), "b.md5sums:2: malformed line"},
		"md5sums with another digest": {write(info+"b.md5sums", strings.Repeat("g", 32)+"  usr/bin/b\n"), "b.md5sums:1: malformed line"},
		"md5sums that climbs":         {write(info+"b.md5sums", sum("b")+"  ../etc/shadow\n"), "b.md5sums:1: malformed line"},
		"md5sums of the root":         {write(info+"b.md5sums", sum("b")+"  ./\n"), "b.md5sums:1: malformed line"},
		"diversions cut off":          {write("var/lib/dpkg/diversions", "/a\n/b\n"), "diversions:2: the file is cut off in the middle of a diversion"},
		"diversions without package":  {write("var/lib/dpkg/diversions", "/a\n/b\n\n"), "diversions:3: malformed line"},
		"no info directory":           {func(r *fixture.Root) { _ = os.Rename(r.Path(info), r.Path("gone")) }, "info: is missing, although package"}, // the error tells whether it is
		"md5sums is a directory": {func(r *fixture.Root) {
			r.Remove(info + "b.md5sums")
			r.Write(info+"b.md5sums/x", "", 0o644)
		}, "b.md5sums"},
	} {
		t.Run(name, func(t *testing.T) {
			root := fixture.NewRoot(t)
			for _, p := range []string{"a", "b", "c"} {
				root.Install(fixture.Package{Name: p, Files: map[string]fixture.File{"/usr/bin/" + p: {Content: p}}})
			}
			c.do(root)
			db, err := Open(root.Dir, fixture.Age())
			for i := 0; err == nil && i < len(db.Packages()); i++ {
				err = db.Files(&db.packages[i], func(File) error { return nil })
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if !strings.Contains(err.Error(), root.Dir) {
				t.Errorf("the error does not name the file: %v", err)
			}
		})
	}
}

// TestCutOff cuts status at every length: what remains is an error or all of it.
func TestCutOff(t *testing.T) {
	root := fixture.NewRoot(t)
	for _, p := range []string{"a", "b", "c"} {
		root.Install(fixture.Package{Name: p, Files: map[string]fixture.File{"/usr/bin/" + p: {Content: p}}})
	}
	path := root.Path("var/lib/dpkg/status")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		if db, err := Open(root.Dir, fixture.Age()); err == nil {
			t.Errorf("cut off after %d of %d bytes: %d packages and no error", n, len(whole), len(db.Packages()))
		}
	}
}

// TestLeftovers says that files which dpkg ignores are no reason to fail.
func TestLeftovers(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(fixture.Package{Name: "m", Files: map[string]fixture.File{"/m": {Content: "m"}}})
	root.Install(fixture.Package{Name: "lib", Same: true, Files: map[string]fixture.File{"/lib": {Content: "l"}}})
	root.Write("var/lib/dpkg/info/lib.list", "/old\n", 0o644) // as it was called before there were several architectures
	root.Write("var/lib/dpkg/info/lib.md5sums", sum("old")+"  old\n", 0o644)
	root.Write("var/lib/dpkg/info/abc.list", "/abc\n", 0o644)
	root.Write("var/lib/dpkg/info/abc.md5sums", "what?", 0o644)
	if diff := cmp.Diff([]string{"lib:amd64 /lib " + sum("l"), "m:amd64 /m " + sum("m")}, list(t, open(t, root))); diff != "" {
		t.Error(diff)
	}
}

// TestMD5SumVariants reads what md5sum(1) writes.
func TestMD5SumVariants(t *testing.T) {
	in := sum("") + "  usr/bin/a\n" + sum("") + " *usr/bin/b\n" + sum("") + "  ./usr/bin/c\n" + sum("") + "  /usr//bin/d\n" +
		`\` + sum("") + `  usr/bin/e\\f\ng` + "\n" + sum("") + `  usr/bin/h\x2d` + "\n"
	var got []string
	if err := parseSums("x", strings.NewReader(in), func(path string, _ [16]byte) error { got = append(got, path); return nil }); err != nil {
		t.Fatal(err)
	}
	want := []string{"/usr/bin/a", "/usr/bin/b", "/usr/bin/c", "/usr/bin/d", "/usr/bin/e\\f\ng", `/usr/bin/h\x2d`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestMachine reads the database of the machine that the test runs on.
func TestMachine(t *testing.T) {
	db, err := Open("/", time.Now())
	if errors.Is(err, ErrNone) {
		t.Skip("this machine has no dpkg database")
	}
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for i := range db.Packages() {
		if err := db.Files(&db.packages[i], func(File) error { files++; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if len(db.Packages()) == 0 || files == 0 {
		t.Errorf("%d packages with %d files", len(db.Packages()), files)
	}
}

func FuzzStatus(f *testing.F) {
	f.Add("Package: a\nStatus: install ok installed\nArchitecture: amd64\nMulti-Arch: same\nConffiles:\n /etc/a " + sum("") + " obsolete\n /etc/b newconffile\n\n")
	f.Add("Package: a\nStatus: deinstall ok config-files\n\nPackage: b\nStatus: install ok installed\n .\n\n")
	f.Add("Package: a\n")
	f.Fuzz(func(t *testing.T, in string) {
		err := parseStatus("f", false, strings.NewReader(in), func(line int, s stanza) error {
			if s.name == "" || s.status == "" || line < 1 || line > strings.Count(in, "\n") || strings.Contains(s.name, "/") {
				t.Errorf("line %d: %+v", line, s)
			}
			for _, c := range s.conffiles {
				checkPath(t, c.path)
			}
			return nil
		})
		checkError(t, err)
	})
}

func FuzzSums(f *testing.F) {
	f.Add(sum("") + "  usr/bin/a\n" + sum("") + " *b\n")
	f.Add(`\` + sum("") + `  a\\b\nc` + "\n")
	f.Add(sum("") + "  ../a\n")
	f.Fuzz(func(t *testing.T, in string) {
		n := 0
		err := parseSums("f", strings.NewReader(in), func(path string, _ [16]byte) error {
			n++
			checkPath(t, path)
			return nil
		})
		checkError(t, err)
		if err == nil && n != strings.Count(in, "\n") {
			t.Errorf("%d files in %d lines", n, strings.Count(in, "\n"))
		}
	})
}

func FuzzDiversions(f *testing.F) {
	f.Add("/a\n/b\n:\n/c\n/d\npkg\n")
	f.Add("/a\n/b\n")
	f.Fuzz(func(t *testing.T, in string) {
		d, err := parseDiversions("f", strings.NewReader(in))
		checkError(t, err)
		for from, to := range d.byPath {
			checkPath(t, from)
			checkPath(t, to.to)
		}
	})
}

func checkPath(t *testing.T, path string) {
	t.Helper()
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		t.Errorf("path %q", path)
	}
}

func checkError(t *testing.T, err error) {
	t.Helper()
	if err != nil && !strings.HasPrefix(err.Error(), "f:") {
		t.Errorf("the error does not name its place: %v", err)
	}
}
