package notice

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"pgregory.net/rapid"
)

func TestTexts(t *testing.T) {
	for name, c := range map[string]struct {
		text Text
		want string
	}{
		"restricted": {restricted(""), "Cordon: This machine is restricted. Its administrators have restricted it: programs that are not trusted are refused from now on. What runs keeps running."},
		"contact":    {restricted("security@example.org, 4711"), " Contact: security@example.org, 4711"},
		"freed":      {freed(""), "Cordon: This machine is not restricted any more. Programs run as they did before."},
		"refused":    {refused("/home/a b/tool", 0, ""), `Cordon: A program was refused. "/home/a b/tool" is not trusted, and this machine is restricted to what is.`},
		"more":       {refused("/x", 12, "root"), `Refused and not told: 12 more. Contact: root`},
		"escape":     {refused("/x\x1b]0;owned\x07\x1b[2J", 0, ""), `"/x\x1b]0;owned\a\x1b[2J" is`},
		"line break": {refused("/x\r\nroot: do this", 0, ""), `"/x\r\nroot: do this" is`},
		"backwards":  {refused("/x\u202egpj.exe", 0, ""), `"/x\u202egpj.exe" is`},
		"C1":         {refused("/x\u009b2J\x9b2J", 0, ""), `"/x\u009b2J\x9b2J" is`},
		"evil help":  {restricted("\x1b[5mme"), ` Contact: \x1b[5mme`},
	} {
		t.Run(name, func(t *testing.T) {
			line := c.text.line(true)
			if !strings.Contains(line, c.want) || !strings.HasPrefix(line, "\r\nCordon: ") || !strings.HasSuffix(line, "\r\n") || strings.Count(line, "\n") != 2 {
				t.Errorf("got %q, want %q", line, c.want)
			}
		})
	}
	if got := refused("/Grüße", 0, "").line(false); !strings.Contains(got, `/Gr\u00fc\u00dfe"`) {
		t.Errorf("for a terminal without UTF-8: %q", got)
	}
	if got := refused("/Grüße", 0, "").line(true); !strings.Contains(got, `/Grüße"`) {
		t.Errorf("for a terminal with UTF-8: %q", got)
	}
	if got := markup.Replace(refused(`/<a href="http://x">&amp;</a>`, 0, "").Body); strings.ContainsAny(got, "<>") || !strings.Contains(got, `/&lt;a href="http://x"&gt;&amp;amp;`) {
		t.Errorf("for a desktop: %q", got)
	}
	long := refused("/home/"+strings.Repeat("x", 10000)+"/tool", 0, "").Body
	if !strings.Contains(long, "/home/x") || !strings.Contains(long, `x/tool"`) || len([]rune(long)) > maxShown+80 {
		t.Errorf("a long name: %q", long)
	}
}

// Whatever a name is: it changes nothing but the place where it is shown, and
// fits into the pipe.
func FuzzRefused(f *testing.F) {
	for _, s := range []string{"", "/bin/x", "\x1b[31m", "\u202e", "\xff\xfe", strings.Repeat("\U0010ffff", 600), strings.Repeat(`"\`, 300)} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, path, contact string) {
		if r := []rune(contact); len(r) > MaxContact {
			contact = string(r[:MaxContact])
		}
		text := refused(path, 1<<31, contact)
		for _, utf8 := range []bool{false, true} {
			for _, r := range strings.TrimSuffix(strings.TrimPrefix(text.line(utf8), "\r\n"), "\r\n") {
				if !unicode.IsPrint(r) || !utf8 && r > unicode.MaxASCII {
					t.Errorf("%q has %q", text.line(utf8), r)
				}
			}
		}
		if line, err := text.encode(); err != nil || len(line) > pipeBuf {
			t.Errorf("%d bytes, %v", len(line), err)
		}
	})
}

func TestLimit(t *testing.T) {
	var l limiter
	at := time.Unix(0, 0)
	step := func(after time.Duration, path string, want bool, unsaid int) {
		t.Helper()
		at = at.Add(after)
		if ok, n := l.allow(path, at); ok != want || n != unsaid {
			t.Errorf("%s at %s: %v, %d", path, at.UTC().Format(time.TimeOnly), ok, n)
		}
	}
	step(0, "/a", true, 0)
	step(time.Second, "/a", false, 0) // it was told of, so it is not among those that were not
	step(58*time.Second, "/a", false, 0)
	step(time.Second, "/a", true, 0)
	for _, p := range []string{"/b", "/c", "/d", "/e", "/f"} {
		step(time.Second, p, true, 0)
	}
	step(time.Second, "/g", false, 0)
	step(time.Second, "/h", false, 0)
	step(time.Second, "/b", false, 0)
	step(51*time.Second, "/g", false, 0)
	step(time.Second, "/g", true, 3) // the first of the six is a minute ago
	step(time.Minute, "/h", true, 0)
}

func TestLimitHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l limiter
		type said struct {
			path string
			at   time.Duration
		}
		var all []said
		now, quiet := time.Duration(0), 0
		for range rapid.IntRange(1, 200).Draw(t, "refusals") {
			now += rapid.Custom(func(t *rapid.T) time.Duration {
				return time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "pause"))
			}).Draw(t, "after")
			path := rapid.StringMatching("/[a-j]").Draw(t, "path")
			within, same := 0, false
			for _, s := range all {
				if now-s.at < time.Minute {
					within++
					same = same || s.path == path
				}
			}
			ok, unsaid := l.allow(path, time.Unix(0, 0).Add(now))
			if want := !same && within < mostWithin; ok != want {
				t.Fatalf("%s at %s: %v, with %d told within a minute (of it: %v)", path, now, ok, within, same)
			}
			switch {
			case ok:
				if unsaid != quiet {
					t.Fatalf("%d are said not to be told, of %d", unsaid, quiet)
				}
				all, quiet = append(all, said{path, now}), 0
			case !same:
				quiet++
			}
			if len(l.told) > mostWithin {
				t.Fatalf("it remembers %d", len(l.told))
			}
		}
	})
}
