package rules

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/trust/fixture"
)

var digest = strings.Repeat("ab", 32)

func TestParse(t *testing.T) {
	in := "# comment\n\n  sha256 " + digest + "\tbackup 1.4 # not a comment\nsha256 " + strings.ToUpper(digest) + "\r\n" +
		"path /opt/tools/\npath\t/opt/with space/# and more\n"
	got, err := parse("tools.rules", strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	var d cordon.Digest
	for i := range d {
		d[i] = 0xab
	}
	want := []Rule{{Line: 3, Digest: d}, {Line: 4, Digest: d}, {Line: 5, Path: "/opt/tools"}, {Line: 6, Path: "/opt/with space/# and more"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseErrors(t *testing.T) {
	for in, want := range map[string]string{
		"sha1 abc":                               `r:1: "sha1" is no rule. Begin the line with sha256, path, or # for a comment.`,
		"\nsha256 abc":                           `r:2: A SHA-256 has 64 hex digits, and "abc" has 3. Take it from sha256sum FILE.`,
		"sha256":                                 `r:1: A SHA-256 has 64 hex digits, and "" has 0. Take it from sha256sum FILE.`,
		"sha256 " + strings.Repeat("xy", 32):     `contains something else than hex digits. Take the SHA-256 from sha256sum FILE.`,
		"sha256 " + strings.Repeat("00", 32):     "all zeros",
		"path opt/tools":                         `r:1: "opt/tools" is not an absolute path. Write it from / on.`,
		"path":                                   `"" is not an absolute path`,
		"path /opt/../etc":                       `r:1: "/opt/../etc" is not a plain path. Write "/etc".`,
		"path /":                                 "would trust the whole machine",
		"path //":                                "would trust the whole machine",
		"path /opt/..":                           "would trust the whole machine",
		"path /opt//tools":                       `Write "/opt/tools".`,
		"path /a\x00b":                           "NUL byte",
		"path /" + strings.Repeat("a", maxLine):  "longer than",
		strings.Repeat("path /a\n", maxRules+1):  fmt.Sprintf("r:%d: There are more than", maxRules+1),
		"Path /opt":                              `"Path" is no rule`,
		"sha256:" + digest:                       "is no rule",
		"path /opt/tools\nallow everything # ok": `r:2: "allow" is no rule`,
	} {
		_, err := parse("r", strings.NewReader(in))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want %q", in, err, want)
		}
		if err != nil && cordon.KindOf(err) != cordon.Invalid {
			t.Errorf("%.40q: kind %v", in, cordon.KindOf(err))
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "trust.rules")
	if _, err := Load(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	write := func(mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte("path /opt\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write(0o644)
	if rules, err := Load(path); err != nil || len(rules) != 1 {
		t.Errorf("got %v, %v", rules, err)
	}
	for mode, want := range map[os.FileMode]string{
		0o664: "can be written by its group, so its rules are not trusted. Run: chown root:root " + path,
		0o646: "can be written by everybody",
	} {
		write(mode)
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("mode %o: got %v, want %q", mode, err, want)
		}
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("giving files away needs root")
	}
	write(0o644)
	if err := os.Chown(path, 12345, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "belongs to user 12345, not to root") {
		t.Errorf("another owner: %v", err)
	}
}

// walkAll returns what a path rule covers, and what it does not.
func walkAll(t *testing.T, root *fixture.Root, path string) (seen, offences []string) {
	t.Helper()
	err := Rule{Path: path}.Walk(root.Dir, func(path string, st *unix.Stat_t) error {
		if st.Size == 0 {
			t.Errorf("%s: no size", path)
		}
		seen = append(seen, path)
		return nil
	}, func(path, why string) { offences = append(offences, path+" "+why) })
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(seen)
	return seen, offences
}

func TestWalk(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Write("opt/tools/a", "a", 0o755)
	root.Write("opt/tools/sub/b", "b", 0o644)
	root.Write("opt/tools/open/c", "c", 0o755)
	root.Write("opt/tools/loose", "d", 0o775)
	root.Write("home/x/evil", "e", 0o755)
	root.Link("/home/x", "opt/tools/link")
	root.Link("a", "opt/tools/link2")
	root.Link("../opt/tools", "srv/tools")
	root.Link("loop", "srv/loop")
	if err := os.Chmod(root.Path("opt/tools/open"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(root.Path("opt/tools/fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	inside := []string{"/opt/tools/a", "/opt/tools/sub/b"}
	offences := []string{"/opt/tools/loose can be written by its group", "/opt/tools/open can be written by everybody"}
	for path, want := range map[string][2][]string{
		"/opt/tools":        {inside, offences},
		"/srv/tools":        {inside, offences}, // a link on the way is followed
		"/opt/tools/a":      {{"/opt/tools/a"}, nil},
		"/opt/tools/open/c": {nil, {"/opt/tools/open can be written by everybody"}},
		"/opt/none":         {nil, {"/opt/none no such file or directory"}},
		"/srv/loop":         {nil, {"/srv/loop too many levels of symbolic links"}},
	} {
		seen, got := walkAll(t, root, path)
		if diff := cmp.Diff(want, [2][]string{seen, got}); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	// A directory above the rule's path.
	if err := os.Chmod(root.Path("opt"), 0o775); err != nil {
		t.Fatal(err)
	}
	seen, got := walkAll(t, root, "/opt/tools/sub")
	if diff := cmp.Diff([2][]string{nil, {"/opt can be written by its group"}}, [2][]string{seen, got}); diff != "" {
		t.Error(diff)
	}
	if os.Geteuid() != 0 {
		t.Skip("giving files away needs root")
	}
	if err := errors.Join(os.Chmod(root.Path("opt"), 0o755), os.Chown(root.Path("opt/tools/sub"), 12345, 0)); err != nil {
		t.Fatal(err)
	}
	seen, got = walkAll(t, root, "/opt/tools")
	if diff := cmp.Diff([2][]string{{"/opt/tools/a"}, append(offences, "/opt/tools/sub belongs to user 12345, not to root")},
		[2][]string{seen, got}); diff != "" {
		t.Error(diff)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("sha256 " + digest + " x\npath /opt\n# c\n")
	f.Add("path /a b/../c\n")
	f.Add("sha256 00\n")
	f.Fuzz(func(t *testing.T, in string) {
		rules, err := parse("f", strings.NewReader(in))
		if err != nil {
			if cordon.KindOf(err) != cordon.Invalid || !strings.HasPrefix(err.Error(), "f:") {
				t.Errorf("%v", err)
			}
			return
		}
		for _, r := range rules {
			if (r.Path == "") == (r.Digest == cordon.Digest{}) {
				t.Errorf("both or none: %+v", r)
			}
			if r.Path != "" && (r.Path == "/" || !filepath.IsAbs(r.Path) || filepath.Clean(r.Path) != r.Path) {
				t.Errorf("path %q", r.Path)
			}
			if r.Line < 1 || r.Line > strings.Count(in, "\n")+1 {
				t.Errorf("line %d", r.Line)
			}
		}
	})
}
