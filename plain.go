package cordon

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Plain makes text of s that a terminal, a log line or a page only shows:
// whatever is not a visible character or a plain blank (control characters,
// line breaks, what reverses the direction of writing, bytes that are no UTF-8)
// is escaped as in Go. A backslash stays one, so this is for reading and not for
// undoing, and doing it twice changes nothing more. It is the one way in which
// names that an attacker may have chosen reach people.
func Plain(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// PlainName is [Plain] for a name (of a file, a package) that is kept: it has at
// most MaxName characters, the middle of a longer one left out.
func PlainName(s string) string {
	const keep = (MaxName - 1) / 2
	if len(s) > 8*MaxName { // not worth being looked at as a whole
		s = s[:4*MaxName] + s[len(s)-4*MaxName:]
	}
	runes := []rune(Plain(s))
	if len(runes) <= MaxName {
		return string(runes)
	}
	return string(runes[:keep]) + "…" + string(runes[len(runes)-keep:])
}

// MaxName is the longest name that is kept of a file, in characters.
const MaxName = 511
