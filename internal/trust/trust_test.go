package trust

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/fileid"
	"github.com/cordon-project/cordon/internal/trust/fixture"
)

// builder returns a builder for a test's root, for which every file that exists
// is old.
func builder(root *fixture.Root) *Builder {
	return &Builder{Root: root.Dir, Now: fixture.Age}
}

func build(t testing.TB, b *Builder) (*cordon.TrustSet, Summary) {
	t.Helper()
	set, sum, err := b.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return set, sum
}

func holds(content string) fixture.File { return fixture.File{Content: content} }

func one(name, path, content string) fixture.Package {
	return fixture.Package{Name: name, Files: map[string]fixture.File{path: holds(content)}}
}

// origin says where the trust in a content comes from, "" for none.
func origin(set *cordon.TrustSet, content string) string {
	o, _ := set.Origin(sha256.Sum256([]byte(content)))
	return o
}

func knows(t testing.TB, set *cordon.TrustSet, path string) bool {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return set.Knows(fileid.FromStat(&st))
}

func rulesFile(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "site.rules")
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

const elf = "\x7fELF and so on, until it is longer than an ELF header: ........"

func TestBuild(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Write("usr/bin/unpackaged", "unpackaged", 0o755)
	root.Link("usr/bin", "bin")
	root.Install(
		fixture.Package{Name: "bash",
			Files: map[string]fixture.File{
				"/bin/bash":                   holds("bash"),
				"/usr/share/doc/bash/README":  {Content: "data", Mode: 0o644},
				"/usr/lib/libbash.so.1":       {Content: "library", Mode: 0o644},
				"/usr/lib/bash/plugin":        {Content: elf, Mode: 0o644},
				"/usr/lib/bash/table":         {Content: strings.Repeat("no program", 10), Mode: 0o644},
				"/usr/share/bash/foreign":     {Content: elf + "2", Mode: 0o644},
				"/usr/lib/bash/addon.node":    {Content: "addon", Mode: 0o644},
				"/usr/share/bash/completions": {Content: "script in share", Mode: 0o755},
			},
			Conffiles: map[string]fixture.File{"/etc/init.d/bash": holds("init script"), "/etc/bash.bashrc": {Content: "rc", Mode: 0o644}},
			Scripts:   map[string]string{"postinst": "#!/bin/sh\n# postinst"},
		},
		one("copy", "/usr/bin/bash-copy", "bash"),
		fixture.Package{Name: "meta", NoSums: true},
	)
	root.Write("opt/tools/tool", "tool", 0o755)
	root.Write("opt/tools/notes.txt", "notes", 0o644)
	root.Write("opt/cordon/cordon", "cordon", 0o755)
	b := builder(root)
	b.RulesFile = rulesFile(t, fmt.Sprintf("# ours\npath /opt/tools\nsha256 %x\n", sha256.Sum256([]byte("anywhere"))))
	b.Self = []string{"/opt/cordon/cordon"}
	set, sum := build(t, b)

	got := map[string]string{}
	for _, content := range []string{"bash", "data", "library", elf, strings.Repeat("no program", 10), elf + "2", "addon", "script in share",
		"unpackaged", "init script", "rc", "#!/bin/sh\n# postinst", "tool", "notes", "cordon", "anywhere"} {
		if o := origin(set, content); o != "" {
			got[content] = o
		}
	}
	want := map[string]string{
		"bash": "dpkg:bash", "library": "dpkg:bash", elf: "dpkg:bash", "addon": "dpkg:bash", "script in share": "dpkg:bash",
		"init script": "dpkg:bash", "#!/bin/sh\n# postinst": "dpkg:bash",
		"tool": "rule:site.rules:2", "anywhere": "rule:site.rules:3", "cordon": "cordon",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for path, want := range map[string]bool{"bin/bash": true, "usr/bin/bash-copy": true, "opt/tools/tool": true, "opt/cordon/cordon": true,
		"opt/tools/notes.txt": false, "usr/lib/bash/table": false} {
		if got := knows(t, set, root.Path(path)); got != want {
			t.Errorf("%s is known: %t, want %t", path, got, want)
		}
	}
	wantSum := Summary{
		Sources: []Source{{"cordon", 0, 1}, {"dpkg", 3, 8}, {"rule", 0, 2}},
		Entries: 10, Known: 10, Hashed: 10, HashedBytes: sum.HashedBytes, Duration: sum.Duration,
		Unverifiable: List{1, []Finding{{"dpkg:meta", "the package brought no md5sums"}}},
	}
	if diff := cmp.Diff(wantSum, sum); diff != "" {
		t.Error(diff)
	}
}

func TestMismatch(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(fixture.Package{Name: "p",
		Files:     map[string]fixture.File{"/usr/bin/good": holds("good"), "/usr/bin/bad": holds("bad"), "/usr/bin/gone": holds("gone")},
		Conffiles: map[string]fixture.File{"/etc/init.d/p": holds("init")}})
	root.Write("usr/bin/bad", "BAD", 0o755)
	root.Write("etc/init.d/p", "edited", 0o755)
	root.Remove("usr/bin/gone")
	b := builder(root)
	set, sum := build(t, b)
	if set.Len() != 1 || origin(set, "good") == "" || knows(t, set, root.Path("usr/bin/bad")) {
		t.Errorf("%d entries: %+v", set.Len(), sum)
	}
	want := List{2, []Finding{{"/usr/bin/bad", "dpkg:p: its content is not the package's"}, {"/etc/init.d/p", "dpkg:p: a configuration file that was edited"}}}
	if diff := cmp.Diff(want, sum.Mismatched); diff != "" {
		t.Error(diff)
	}
	// A file that another package has taken over is what it should be.
	root.Install(one("q", "/usr/bin/bad", "BAD"))
	if set, sum = build(t, b); origin(set, "BAD") != "dpkg:q" || sum.Mismatched.N != 1 {
		t.Errorf("taken over: %+v", sum)
	}
	root.Uninstall("q")
	// Put right again, by a file that comes back and one that is repaired.
	root.Write("usr/bin/bad", "bad", 0o755)
	root.Write("usr/bin/gone", "gone", 0o755)
	if set, sum = build(t, b); set.Len() != 3 || sum.Mismatched.N != 1 {
		t.Errorf("repaired: %d entries, %+v", set.Len(), sum)
	}
}

// TestBoundedLists says that what is wrong is counted exactly and listed briefly.
func TestBoundedLists(t *testing.T) {
	root := fixture.NewRoot(t)
	p := fixture.Package{Name: "p", Files: map[string]fixture.File{"/usr/bin/good": holds("good")}}
	for i := range 100 {
		p.Files[fmt.Sprintf("/usr/bin/%03d", i)] = holds("x")
	}
	root.Install(p)
	for i := range 100 {
		root.Write(fmt.Sprintf("usr/bin/%03d", i), "y", 0o755)
	}
	_, sum := build(t, builder(root))
	if sum.Mismatched.N != 100 || len(sum.Mismatched.First) != ListMax {
		t.Errorf("%d mismatches, %d listed", sum.Mismatched.N, len(sum.Mismatched.First))
	}
}

func TestRPM(t *testing.T) {
	root := fixture.NewRoot(t)
	root.InstallRPM(nil, one("tiny", "/usr/bin/tiny", "tiny"), one("other", "/usr/bin/other", "other"))
	b := builder(root)
	set, sum := build(t, b)
	if origin(set, "tiny") != "rpm:tiny" || !knows(t, set, root.Path("usr/bin/tiny")) || set.Len() != 2 {
		t.Errorf("%+v", sum)
	}
	fixture.Tick(t)
	root.Write("usr/bin/other", "OTHER", 0o755)
	root.InstallRPM([]string{"_binary_filedigest_algorithm 1"}, one("old", "/usr/bin/old", "old"))
	root.InstallRPM([]string{"_binary_filedigest_algorithm 10"}, one("strange", "/usr/bin/strange", "strange"))
	set, sum = build(t, b)
	if origin(set, "old") != "rpm:old" || origin(set, "other") != "" || origin(set, "strange") != "" || sum.Hashed != 2 {
		t.Errorf("%+v", sum)
	}
	want := List{1, []Finding{{"rpm:strange", "the package's digests are of an algorithm (number 10) that is not checked here"}}}
	if diff := cmp.Diff(want, sum.Unverifiable); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(List{1, []Finding{{"/usr/bin/other", "rpm:other: its content is not the package's"}}}, sum.Mismatched); diff != "" {
		t.Error(diff)
	}
	root.RPM("-e", "tiny")
	if set, _ = build(t, b); origin(set, "tiny") != "" {
		t.Error("a removed package is still trusted")
	}
}

// TestHardLinks says that two names of a file are read once.
func TestHardLinks(t *testing.T) {
	root := fixture.NewRoot(t)
	p := one("git", "/usr/bin/git", "git")
	p.Files["/usr/bin/git-log"] = holds("git")
	root.Install(p)
	root.Remove("usr/bin/git-log")
	if err := os.Link(root.Path("usr/bin/git"), root.Path("usr/bin/git-log")); err != nil {
		t.Fatal(err)
	}
	if _, sum := build(t, builder(root)); sum.Hashed != 1 || sum.Known != 2 {
		t.Errorf("%+v", sum)
	}
}

func TestRestart(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "a"), one("b", "/usr/bin/b", "b"))
	cache := filepath.Join(t.TempDir(), "trust.cache")
	first := builder(root)
	first.CacheFile = cache
	if first.Last() != nil {
		t.Error("a last set before the first one")
	}
	set, _ := build(t, first)
	if st, err := os.Stat(cache); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the cache has mode %v (%v)", st.Mode(), err)
	}
	again := builder(root)
	again.CacheFile = cache
	if !reflect.DeepEqual(again.Last(), set) {
		t.Error("the last set is not the one that was built")
	}
	before, err := os.Stat(cache)
	if err != nil {
		t.Fatal(err)
	}
	got, sum := build(t, again)
	if sum.Hashed != 0 || !reflect.DeepEqual(got, set) {
		t.Errorf("%d files hashed after a restart", sum.Hashed)
	}
	if after, err := os.Stat(cache); err != nil || !os.SameFile(before, after) {
		t.Errorf("the cache was written although nothing has changed (%v)", err)
	}
	// The last set needs nothing but the cache.
	if err := os.RemoveAll(root.Path("var")); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again.Last(), set) {
		t.Error("the last set is gone with the package database")
	}
}

// What interpreters may be told to run is known at once after a restart.
func TestTexts(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "#!/bin/sh\n"), one("b", "/usr/bin/b", "\x7fELF"), one("c", "/usr/lib/c.py", "import d"), one("d", "/usr/lib/d.pm", "package D"))
	root.Write("/usr/lib/d.pm", "changed", 0o644)
	b := builder(root)
	b.CacheFile, b.ProgramText = filepath.Join(t.TempDir(), "trust.cache"), true
	if got := b.Texts(); len(got) > 0 {
		t.Errorf("before the first build: %q", got)
	}
	build(t, b)
	again := builder(root)
	again.CacheFile, again.ProgramText = b.CacheFile, true
	want := []string{root.Path("usr/bin/a"), root.Path("usr/lib/c.py")}
	for when, got := range map[string][]string{"built": b.Texts(), "after a restart": again.Texts()} {
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q", when, got)
		}
	}
	root.Install(one("e", "/usr/lib/e.rb", "require"))
	build(t, b)
	if got := b.Texts(); !slices.Equal(got, append(want, root.Path("usr/lib/e.rb"))) {
		t.Errorf("built again: %q", got)
	}
}

// Who does not ask for program text any more has a smaller set, which is not
// taken for one that lost its programs.
func TestProgramTextIsAskedFor(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "#!/bin/sh\n"), one("b", "/usr/lib/b.py", "b"), one("c", "/usr/lib/c.py", "c"), one("d", "/usr/lib/d.pm", "d"))
	for _, name := range []string{"b.py", "c.py", "d.pm"} {
		root.Write("/usr/lib/"+name, name[:1], 0o644)
	}
	cache := filepath.Join(t.TempDir(), "trust.cache")
	for i, c := range []struct {
		text bool
		want int
	}{{true, 4}, {false, 1}, {false, 1}, {true, 4}} {
		b := builder(root)
		b.CacheFile, b.ProgramText = cache, c.text
		if set, _ := build(t, b); set.Len() != c.want || (len(b.Texts()) > 0) != c.text {
			t.Errorf("build %d: %d entries, texts %q", i, set.Len(), b.Texts())
		}
	}
}

func TestBadCache(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "a"))
	cache := filepath.Join(t.TempDir(), "trust.cache")
	b := builder(root)
	b.CacheFile = cache
	build(t, b)
	good, err := os.ReadFile(cache)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, spoil := range map[string]func() error{
		"empty":       func() error { return os.WriteFile(cache, nil, 0o600) },
		"cut off":     func() error { return os.WriteFile(cache, good[:len(good)-1], 0o600) },
		"flipped bit": func() error { return os.WriteFile(cache, flipped, 0o600) },
		"other file":  func() error { return os.WriteFile(cache, []byte("hello, this is something else than a cache"), 0o600) },
		"too open":    func() error { return errors.Join(os.WriteFile(cache, good, 0o600), os.Chmod(cache, 0o666)) },
		"directory":   func() error { return os.Mkdir(cache, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := errors.Join(os.RemoveAll(cache), spoil()); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			b := builder(root)
			b.CacheFile, b.Log = cache, slog.New(slog.NewTextHandler(&log, nil))
			if set, sum := build(t, b); sum.Hashed != 1 || set.Len() != 1 {
				t.Errorf("%+v", sum)
			}
			if !strings.Contains(log.String(), "trust cache not used") {
				t.Errorf("the log says nothing: %s", log.String())
			}
		})
	}
}

// TestYoung says that a program which has changed a moment ago is trusted, but
// not by its identity, and not remembered either.
func TestYoung(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "a"))
	b := builder(root)
	b.CacheFile = filepath.Join(t.TempDir(), "cache")
	now := root.Changed("usr/bin/a")
	b.Now = func() time.Time { return now }
	for range 2 {
		set, sum := build(t, b)
		if set.Len() != 1 || sum.Known != 0 || sum.Young != 1 || sum.Hashed != 1 || knows(t, set, root.Path("usr/bin/a")) {
			t.Fatalf("%+v", sum)
		}
	}
	again := builder(root)
	again.CacheFile = b.CacheFile
	if _, sum := build(t, again); sum.Hashed != 1 {
		t.Errorf("the cache remembered a young file: %+v", sum)
	}
	now = fixture.Age()
	if set, sum := build(t, b); sum.Known != 1 || sum.Young != 0 || !knows(t, set, root.Path("usr/bin/a")) {
		t.Errorf("later: %+v", sum)
	}
}

// TestReplacedWhileHashing replaces a program between the moment it is opened and
// the moment it is read, once and always.
func TestReplacedWhileHashing(t *testing.T) {
	for name, always := range map[string]bool{"once": false, "always": true} {
		t.Run(name, func(t *testing.T) {
			root := fixture.NewRoot(t)
			root.Install(one("a", "/usr/bin/a", "a"))
			b := builder(root)
			times := 0
			b.Now = func() time.Time {
				if times++; times > 2 && (always || times == 3) { // the build itself asks twice before
					root.Write("usr/bin/a", "A", 0o755)
				}
				return fixture.Age()
			}
			set, sum, err := b.Build(t.Context())
			if always != (sum.Unstable.N == 1) || always == (sum.Mismatched.N == 1) {
				t.Errorf("%+v", sum)
			}
			if set != nil || !errors.Is(err, ErrNoSource) {
				t.Errorf("the old content is trusted: %v, %v", set, err)
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	const variable = "TRUST_TEST_UNREADABLE"
	dir := os.Getenv(variable)
	if dir == "" {
		root := fixture.NewRoot(t)
		root.Install(one("a", "/usr/bin/a", "a"), fixture.Package{Name: "b", Files: map[string]fixture.File{"/usr/bin/b": {Content: "b", Mode: 0o100}}})
		if os.Geteuid() != 0 {
			checkUnreadable(t, root.Dir)
			return
		}
		// Root may read everything: leave the test to nobody.
		if err := os.Chmod(filepath.Dir(root.Dir), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestUnreadable$", "-test.v")
		cmd.Dir, cmd.Env = "/", append(os.Environ(), variable+"="+root.Dir, "TMPDIR=/tmp")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestUnreadable")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	checkUnreadable(t, dir)
}

func checkUnreadable(t *testing.T, dir string) {
	set, sum := build(t, &Builder{Root: dir, Now: fixture.Age})
	if set.Len() != 1 {
		t.Errorf("%d entries", set.Len())
	}
	if diff := cmp.Diff(List{1, []Finding{{"/usr/bin/b", "permission denied"}}}, sum.Unreadable); diff != "" {
		t.Error(diff)
	}
}

// TestRefused holds the cases in which no set comes out, and what the error
// tells the administrator.
func TestRefused(t *testing.T) {
	const status = "var/lib/dpkg/status"
	for name, c := range map[string]struct {
		do   func(*fixture.Root, *Builder)
		is   error
		want []string
	}{
		"no source": {func(r *fixture.Root, _ *Builder) { _ = os.RemoveAll(r.Path("var")) }, // the error tells whether it is gone
			ErrNoSource, []string{"neither a dpkg nor an rpm database", "Write a rules file"}},
		"empty": {func(r *fixture.Root, _ *Builder) { _ = os.RemoveAll(r.Path("usr")) }, // the same
			ErrNoSource, []string{"The trust set is empty", "write a rules file"}},
		"shrunk": {func(r *fixture.Root, _ *Builder) {
			for i := range 6 {
				r.Uninstall(fmt.Sprint("p", i))
			}
		}, ErrShrunk, []string{"has 4 entries where the one before had 10", "delete ", "restart the agent"}},
		"status cut off": {func(r *fixture.Root, _ *Builder) { r.Write(status, "Package: p1\nSta", 0o644) },
			nil, []string{"The dpkg database could not be read", status + ":2"}},
		"md5sums malformed": {func(r *fixture.Root, _ *Builder) { r.Write("var/lib/dpkg/info/p3.md5sums", "oops\n", 0o644) },
			nil, []string{"The dpkg database could not be read", "p3.md5sums:1"}},
		"rpm database cut off": {func(r *fixture.Root, _ *Builder) { r.Write("var/lib/rpm/rpmdb.sqlite", "SQLite for", 0o644) },
			nil, []string{"The rpm database could not be read", "var/lib/rpm/rpmdb.sqlite"}},
		"rule malformed": {func(_ *fixture.Root, b *Builder) { b.RulesFile = rulesFile(t, "path opt\n") },
			nil, []string{"site.rules:1: ", "Write it from / on."}},
		"rules file open to others": {func(_ *fixture.Root, b *Builder) {
			b.RulesFile = rulesFile(t, "path /opt\n")
			if err := os.Chmod(b.RulesFile, 0o666); err != nil {
				t.Fatal(err)
			}
		}, nil, []string{"can be written by everybody", "chown root:root"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := fixture.NewRoot(t)
			for i := range 10 {
				p := fmt.Sprint("p", i)
				root.Install(one(p, "/usr/bin/"+p, p))
			}
			b := builder(root)
			b.CacheFile = filepath.Join(t.TempDir(), "cache")
			before, _ := build(t, b)
			cached, err := os.ReadFile(b.CacheFile)
			if err != nil {
				t.Fatal(err)
			}
			c.do(root, b)
			// The same from what is in memory and from what is on disk.
			restarted := builder(root)
			restarted.CacheFile, restarted.RulesFile = b.CacheFile, b.RulesFile
			for _, b := range []*Builder{b, b, restarted} {
				set, _, err := b.Build(t.Context())
				var e *cordon.Error
				if set != nil || !errors.As(err, &e) || c.is != nil && !errors.Is(err, c.is) {
					t.Fatalf("got %v, %v", set, err)
				}
				for _, want := range c.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("got %q, want %q in it", err, want)
					}
				}
				if !reflect.DeepEqual(b.Last(), before) {
					t.Error("the last set is gone")
				}
			}
			if now, err := os.ReadFile(b.CacheFile); err != nil || !bytes.Equal(cached, now) {
				t.Errorf("the cache has changed (%v)", err)
			}
		})
	}
}

// TestShrunkAccepted does what the error says: it deletes the cache and restarts.
func TestShrunkAccepted(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "a"), one("b", "/usr/bin/b", "b"), one("c", "/usr/bin/c", "c"))
	b := builder(root)
	b.CacheFile = filepath.Join(t.TempDir(), "cache")
	build(t, b)
	root.Uninstall("a")
	if set, _ := build(t, b); set.Len() != 2 {
		t.Errorf("more than half is left, and %d entries", set.Len())
	}
	root.Install(one("a", "/usr/bin/a", "a"))
	build(t, b)
	root.Uninstall("a")
	root.Uninstall("b")
	if _, _, err := b.Build(t.Context()); !errors.Is(err, ErrShrunk) {
		t.Fatalf("got %v", err)
	}
	if err := os.Remove(b.CacheFile); err != nil {
		t.Fatal(err)
	}
	again := builder(root)
	again.CacheFile = b.CacheFile
	if set, _ := build(t, again); set.Len() != 1 {
		t.Errorf("%d entries", set.Len())
	}
}

// TestOpenToOthers says that a content which no digest vouches for is trusted
// only where nobody but root could have put it.
func TestOpenToOthers(t *testing.T) {
	root := fixture.NewRoot(t)
	p := one("a", "/usr/bin/a", "a")
	p.Scripts = map[string]string{"postinst": "postinst"}
	root.Install(p)
	root.Write("opt/cordon", "cordon", 0o755)
	root.Write("opt/tools/tool", "tool", 0o755)
	b := builder(root)
	b.Self, b.RulesFile = []string{"/opt/cordon"}, rulesFile(t, "path /opt/tools\n")
	for _, path := range []string{"var/lib/dpkg/info/a.postinst", "opt/cordon", "opt/tools/tool", "usr/bin/a"} {
		if err := os.Chmod(root.Path(path), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	set, sum := build(t, b)
	if set.Len() != 1 || origin(set, "a") == "" || sum.Rejected.N != 3 {
		t.Errorf("%d entries, %+v", set.Len(), sum.Rejected)
	}
}

func TestCancelled(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "a"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := builder(root)
	if set, _, err := b.Build(ctx); set != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v", set, err)
	}
	if set, _ := build(t, b); set.Len() != 1 {
		t.Error("the cancelled build left something behind")
	}
}

// TestMatches says that a content counts only if all that is known of it fits.
func TestMatches(t *testing.T) {
	sum, md := sha256.Sum256([]byte("x")), [32]byte{1, 2, 3}
	f := fact{id: cordon.FileID{Size: 1}, sha256: sum, md5: [16]byte{1, 2, 3}, hasMD5: true}
	for name, c := range map[string]struct {
		want want
		fits bool
	}{
		"anything":     {want{size: -1}, true},
		"md5":          {want{kind: byMD5, size: -1, sum: md}, true},
		"sha256":       {want{kind: bySHA256, size: 1, sum: sum}, true},
		"other md5":    {want{kind: byMD5, size: -1, sum: sum}, false},
		"other sha256": {want{kind: bySHA256, size: 1, sum: md}, false},
		"other size":   {want{kind: bySHA256, size: 2, sum: sum}, false},
	} {
		if got := (&file{want: c.want, fact: f}).matches(); got != c.fits {
			t.Errorf("%s: %t, want %t", name, got, c.fits)
		}
	}
	f.hasMD5, f.md5 = false, [16]byte{}
	if (&file{want: want{kind: byMD5, size: -1}, fact: f}).matches() {
		t.Error("an MD5 that was never computed fits")
	}
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		path string
		mode uint32
		size int64
		want class
	}{
		{"/usr/bin/ls", 0o755, 0, code},
		{"/usr/share/x.txt", 0o640 | 0o010, 5, code},
		{"/usr/bin/ls", 0o644, 1000, unsure},
		{"/usr/bin/ls", 0o644, 51, data},
		{"/usr/lib/libc.so", 0o644, 1, code},
		{"/usr/lib/libc.so.6.1", 0o644, 1, code},
		{"/usr/lib/libc.sold", 0o644, 1000, data},
		{"/usr/lib/.so", 0o644, 1, code},
		{"/usr/lib/x/a.node", 0o644, 1, code},
		{"/usr/lib/modules/6.1/dummy.ko", 0o644, 1, code},
		{"/usr/lib/modules/6.1/dummy.ko.xz", 0o644, 1, code},
		{"/usr/lib/modules/6.1/dummy.ko.zst", 0o644, 1, code},
		{"/usr/lib/modules/6.1/dummy.ko.gz", 0o644, 1, code},
		{"/usr/lib/modules/6.1/dummy.xz", 0o644, 1, data},
		{"/usr/lib/modules/6.1/modules.kolist", 0o644, 1000, data},
		{"/usr/lib.so/README", 0o644, 10, data},
		{"/usr/lib/python3/x.py", 0o644, 1000, code},
		{"/usr/share/perl5/X.pm", 0o644, 1000, code},
		{"/usr/lib/python3/x.txt", 0o644, 1000, data},
		{"/usr/share/doc/README", 0o644, 1000, data},
		{"/usr/include/c++", 0o644, 1000, data},
		{"/usr/lib/vmlinuz", 0o644, 1000, unsure},
	} {
		if got := classify(c.path, c.mode, c.size, true); got != c.want {
			t.Errorf("%s with mode %o and %d bytes: %d, want %d", c.path, c.mode, c.size, got, c.want)
		}
	}
}

func FuzzCache(f *testing.F) {
	c := cache{
		entries: []cordon.TrustEntry{{Digest: cordon.Digest{1}, Size: 5, Origin: "dpkg:a"}, {Digest: cordon.Digest{2}, Size: -1, Origin: "rule:x:1"}},
		facts: []fact{{id: cordon.FileID{Dev: 1, Ino: 2, Size: 5, Mtime: 3, Ctime: 4}, sha256: cordon.Digest{1}, md5: [16]byte{9}, hasMD5: true},
			{id: cordon.FileID{Ino: 3}, sha256: cordon.Digest{3}}},
	}
	empty := (&cache{}).encode()
	f.Add(c.encode(), true)
	f.Add(empty, true)
	f.Add(c.encode()[:70], false)
	f.Fuzz(func(t *testing.T, b []byte, repair bool) {
		if repair && len(b) >= sha256.Size { // else hardly anything would get past the checksum
			body := b[:len(b)-sha256.Size]
			s := sha256.Sum256(body)
			b = append(bytes.Clone(body), s[:]...)
		}
		c, err := decodeCache(b)
		if err != nil {
			return
		}
		// What is read is written as the same, up to the spelling of numbers and origins.
		again, err := decodeCache(c.encode())
		if err != nil {
			t.Fatal(err)
		}
		again.sum, c.sum = cordon.Digest{}, cordon.Digest{}
		if !reflect.DeepEqual(c, again) {
			t.Errorf("%+v became %+v", c, again)
		}
		cordon.NewTrustSet(c.entries, c.known())
	})
}

func md5hex(s string) string { return fmt.Sprintf("%x", md5.Sum([]byte(s))) }
