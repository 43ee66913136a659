package cordon_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/cordon-project/cordon"
)

func FuzzPlain(f *testing.F) {
	for _, s := range []string{"", "/usr/bin/ls", "a\nb", "\x1b]0;title\a", "\xff\xfe/x", "\u202Egnp.exe", "a\\nb", "\uFFFD", "ünï", "'\"<>&", "\u2028", strings.Repeat("x", 2000), strings.Repeat("\xf0\x9f", 5000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for name, p := range map[string]string{"Plain": cordon.Plain(s), "PlainName": cordon.PlainName(s)} {
			if !utf8.ValidString(p) || strings.ContainsFunc(p, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Fatalf("%s(%q) is not plain: %q", name, s, p)
			}
			b, err := json.Marshal(p)
			var back string
			if err != nil || json.Unmarshal(b, &back) != nil || back != p {
				t.Fatalf("%s(%q) does not survive JSON: %q", name, s, back)
			}
		}
		p := cordon.Plain(s)
		if cordon.Plain(p) != p {
			t.Fatalf("twice is not once: %q, %q", p, cordon.Plain(p))
		}
		n := cordon.PlainName(s)
		if utf8.RuneCountInString(n) > cordon.MaxName || cordon.PlainName(n) != n {
			t.Fatalf("the name %q is too long, or changes when taken twice", n)
		}
		if p == s && utf8.RuneCountInString(s) <= cordon.MaxName && n != s {
			t.Fatalf("%q needed no change and became %q", s, n)
		}
	})
}
