package trust

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/trust/fixture"
)

// TestIncremental installs, removes, diverts, edits and repairs in any order.
// After every step a builder that remembers the step before, one that remembers
// only what is in the cache, and one that remembers nothing build the same set.
func TestIncremental(t *testing.T) {
	names := []string{"a", "b", "c"}
	// What is a program stays one, and what is data stays data: see Build.
	paths := []string{"/usr/bin/x", "/usr/bin/y", "/usr/lib/z.so", "/usr/lib/w", "/usr/share/d.txt", "/opt/tools/v"}
	modes := map[string]os.FileMode{"/usr/lib/z.so": 0o644, "/usr/lib/w": 0o644, "/usr/share/d.txt": 0o644}
	prefix := map[string]string{"/usr/lib/w": elf}
	contents := []string{"one", "two", "six"}
	steps := 0
	rapid.Check(t, func(rt *rapid.T) {
		root := fixture.NewRoot(t)
		root.Install(one("base", "/usr/bin/base", "base"))
		dir := t.TempDir()
		now, at := fixture.Age, time.Time{}
		if rapid.Bool().Draw(rt, "young") {
			// It stands still while a step is built three times, however long that
			// takes: what is young for one build is for the others too.
			now = func() time.Time { return at }
		}
		make := func(cache string) *Builder {
			return &Builder{Root: root.Dir, Now: now, RulesFile: filepath.Join(dir, "site.rules"), CacheFile: cache, Self: []string{"/usr/bin/base"}}
		}
		going, cache := make(""), filepath.Join(dir, "cache")
		installed := map[string]bool{}
		content, path := rapid.SampledFrom(contents), rapid.SampledFrom(paths)
		for range rapid.IntRange(1, 6).Draw(rt, "rounds") {
			fixture.Tick(t)
			for range rapid.IntRange(1, 4).Draw(rt, "changes") {
				steps++
				switch rapid.IntRange(0, 8).Draw(rt, "change") {
				case 0, 1, 2:
					p := fixture.Package{Name: rapid.SampledFrom(names).Draw(rt, "name"), Files: map[string]fixture.File{}}
					for range rapid.IntRange(0, 3).Draw(rt, "files") {
						at := path.Draw(rt, "path")
						p.Files[at] = fixture.File{Content: prefix[at] + content.Draw(rt, "content"), Mode: modes[at]}
					}
					if rapid.Bool().Draw(rt, "conffile") {
						p.Conffiles = map[string]fixture.File{"/etc/init.d/" + p.Name: holds(content.Draw(rt, "conffile content"))}
					}
					if rapid.Bool().Draw(rt, "script") {
						p.Scripts = map[string]string{"postinst": content.Draw(rt, "script content")}
					}
					root.Install(p)
					installed[p.Name] = true
				case 3:
					if name := rapid.SampledFrom(names).Draw(rt, "removed"); installed[name] {
						root.Uninstall(name)
						delete(installed, name)
					}
				case 4: // in place, which keeps the inode
					at := path.Draw(rt, "edited")
					if f, err := os.OpenFile(root.Path(at), os.O_WRONLY|os.O_TRUNC, 0); err == nil {
						_, werr := f.WriteString(prefix[at] + content.Draw(rt, "edit"))
						if err := errors.Join(werr, f.Close()); err != nil {
							rt.Fatal(err)
						}
					}
				case 5:
					at := path.Draw(rt, "replaced")
					if st, err := os.Lstat(root.Path(at)); err == nil {
						root.Write(at, prefix[at]+content.Draw(rt, "replacement"), st.Mode())
					}
				case 6:
					root.Remove(path.Draw(rt, "deleted"))
				case 7:
					from, to := path.Draw(rt, "diverted"), path.Draw(rt, "diverted to")
					if modes[from] != modes[to] || prefix[from] != prefix[to] {
						continue
					}
					root.Write("var/lib/dpkg/diversions", from+"\n"+to+"\n"+rapid.SampledFrom(append(names, ":")).Draw(rt, "by")+"\n", 0o644)
				case 8:
					rules := rapid.SampledFrom([]string{"", "path /opt/tools\n", "path /usr/lib\n", "# none\n"}).Draw(rt, "rules")
					if err := os.WriteFile(filepath.Join(dir, "site.rules"), []byte(rules), 0o644); err != nil {
						rt.Fatal(err)
					}
				}
			}
			at = time.Now()
			cold, coldSum, coldErr := make("").Build(t.Context())
			warm, warmSum, warmErr := make(cache).Build(t.Context())
			inc, incSum, incErr := going.Build(t.Context())
			if errors.Is(incErr, ErrShrunk) || errors.Is(warmErr, ErrShrunk) {
				going = make("")
				if err := os.Remove(cache); err != nil && !os.IsNotExist(err) {
					rt.Fatal(err)
				}
				continue
			}
			if err := errors.Join(coldErr, warmErr, incErr); err != nil {
				rt.Fatal(err)
			}
			for name, got := range map[string]*cordon.TrustSet{"incremental": inc, "warm": warm} {
				if !reflect.DeepEqual(got, cold) {
					rt.Fatalf("the %s build differs from the cold one:\n%v", name, cmp.Diff(cold, got, cmp.AllowUnexported(cordon.TrustSet{})))
				}
			}
			for _, s := range []*Summary{&coldSum, &warmSum, &incSum} {
				s.Hashed, s.HashedBytes, s.Duration = 0, 0, 0
			}
			if diff := cmp.Diff(coldSum, warmSum); diff != "" {
				rt.Fatal("warm", diff)
			}
			if diff := cmp.Diff(coldSum, incSum); diff != "" {
				rt.Fatal("incremental", diff)
			}
		}
	})
	t.Logf("%d changes", steps)
}

// TestOnlyWhatChanged says what an incremental build reads.
func TestOnlyWhatChanged(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "a"), one("b", "/usr/bin/b", "b"))
	if err := os.Link(root.Path("usr/bin/a"), root.Path("usr/bin/a2")); err != nil {
		t.Fatal(err)
	}
	b := builder(root)
	for _, step := range []struct {
		name   string
		do     func()
		hashed int
	}{
		{"first", func() {}, 2},
		{"nothing", func() {}, 0},
		{"one package", func() { root.Install(one("c", "/usr/bin/c", "c")) }, 1},
		{"diversion of nothing", func() { root.Write("var/lib/dpkg/diversions", "/q\n/r\n:\n", 0o644) }, 0},
		{"touched md5sums", func() {
			root.Write("var/lib/dpkg/info/a.md5sums", "0cc175b9c0f1b6a831c399e269772661  usr/bin/a\n", 0o644)
		}, 0},
		{"chmod", func() {
			fixture.Tick(t)
			if err := os.Chmod(root.Path("usr/bin/b"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, 1},
	} {
		step.do()
		if _, sum := build(t, b); sum.Hashed != step.hashed {
			t.Errorf("%s: %d files hashed, want %d", step.name, sum.Hashed, step.hashed)
		}
	}
}

// TestNoProgramAnyMore says that the rule what is a program is asked anew.
func TestNoProgramAnyMore(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "a"), one("b", "/usr/bin/b", "b"))
	b := builder(root)
	build(t, b)
	for _, step := range []struct {
		mode os.FileMode
		want string
	}{{0o644, ""}, {0o755, "dpkg:a"}} {
		if err := os.Chmod(root.Path("usr/bin/a"), step.mode); err != nil {
			t.Fatal(err)
		}
		set, _ := build(t, b)
		if got := origin(set, "a"); got != step.want {
			t.Errorf("mode %o: origin %q, want %q", step.mode, got, step.want)
		}
		cold, _ := build(t, builder(root))
		if !reflect.DeepEqual(set, cold) {
			t.Errorf("mode %o: the incremental build differs from the cold one", step.mode)
		}
	}
}
