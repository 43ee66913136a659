package notice

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
)

// Text is what a person is told. Nothing in it but visible characters and blanks.
type Text struct {
	Summary string // a sentence without its full stop, never with a name in it
	Body    string // sentences
	Urgent  bool   // stays on a desktop until it was seen
}

// MaxContact is the longest contact, in characters.
const MaxContact = 200

// maxShown is how many characters of a program's name are shown; of a longer one
// the middle is left out.
const maxShown = 160

func restricted(contact string) Text {
	return Text{"This machine is restricted", "Its administrators have restricted it: programs that are not trusted are refused from now on. What runs keeps running." + whom(contact), true}
}

func freed(contact string) Text {
	return Text{"This machine is not restricted any more", "Programs run as they did before." + whom(contact), false}
}

// refused tells of a program, and that unsaid more were not told of.
func refused(path string, unsaid int, contact string) Text {
	body := fmt.Sprintf(`"%s" is not trusted, and this machine is restricted to what is.`, shown(path))
	if unsaid > 0 {
		body += fmt.Sprintf(" Refused and not told: %d more.", unsaid)
	}
	return Text{"A program was refused", body + whom(contact), false}
}

func whom(contact string) string {
	if contact == "" {
		return ""
	}
	return " Contact: " + cordon.Plain(contact)
}

func shown(name string) string {
	r := []rune(cordon.PlainName(name))
	if len(r) <= maxShown {
		return string(r)
	}
	// The end tells more than the beginning.
	return string(r[:maxShown/3]) + "…" + string(r[len(r)-(maxShown-1-maxShown/3):])
}

// line is the text for a terminal. One that does not take UTF-8 may take a part
// of a character for the beginning of a command: it gets ASCII.
func (t Text) line(utf8 bool) string {
	s := fmt.Sprintf("Cordon: %s. %s", t.Summary, t.Body)
	if !utf8 {
		s = ascii(s)
	}
	return "\r\n" + s + "\r\n"
}

func ascii(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r < 0x80 {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// markup escapes what a notification's body may be written in (Desktop
// Notifications Specification, Markup).
var markup = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// encode makes the line that goes through the pipe.
func (t Text) encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // it would make the line longer than need be
	if err := e.Encode(t); err != nil {
		return nil, fmt.Errorf("encode notice: %w", err)
	}
	return b.Bytes(), nil
}

// Bounds of what is told of refused programs.
const (
	window     = time.Minute
	mostWithin = 6 // programs that are told of within a window
)

// limiter says which refusals are told: of each program at most one within any
// window, and of all no more than mostWithin. It remembers no more than that.
type limiter struct {
	told   []told // within the last window
	unsaid int    // refusals of other programs since the last that was told
}

type told struct {
	path string
	at   time.Time
}

// allow reports whether a refusal is told now, and how many were not since the
// last one that was, because there were too many.
func (l *limiter) allow(path string, now time.Time) (ok bool, unsaid int) {
	recent := l.told[:0]
	for _, t := range l.told {
		if now.Sub(t.at) < window {
			recent = append(recent, t)
		}
	}
	l.told = recent
	for _, t := range l.told {
		if t.path == path {
			return false, 0
		}
	}
	if len(l.told) >= mostWithin {
		l.unsaid++
		return false, 0
	}
	l.told = append(l.told, told{path, now})
	unsaid, l.unsaid = l.unsaid, 0
	return true, unsaid
}
