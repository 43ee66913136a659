package odata

import (
	"strings"
	"unicode/utf8"
)

type tokenKind uint8

const (
	end    tokenKind = iota
	word             // a name, an operator, null, true, false
	bare             // a literal without quotes: number, date, GUID
	quoted           // a literal in single quotes; text is what they enclose
	punct            // one of ( ) , / : *
)

// token is a piece of an option's value. pos is its byte offset there.
type token struct {
	kind tokenKind
	text string
	pos  int
}

// is reports whether the token is the word or the punctuation mark s (lower
// case) in any case.
func (t token) is(s string) bool {
	return (t.kind == word || t.kind == punct) && strings.EqualFold(t.text, s)
}

// advance moves to the next token.
func (p *parser) advance() error {
	s := p.text
	for p.next < len(s) && strings.IndexByte(blanks, s[p.next]) >= 0 {
		p.next++
	}
	start := p.next
	p.tok = token{pos: start}
	if start == len(s) {
		return nil
	}
	switch c := s[start]; {
	case c == '\'':
		return p.quotedToken()
	case isLetter(c):
		p.next = span(s, start, isNameByte)
		p.tok.kind = word
		if p.next < len(s) && s[p.next] == '-' { // no name has a minus, but a GUID may begin with a letter
			p.next = span(s, start, isBareByte)
			p.tok.kind = bare
		}
	case isDigit(c) || c == '-' || c == '+':
		p.next = span(s, start, isBareByte)
		p.tok.kind = bare
		if offset := decodedPlus(s[start:p.next], s[p.next:]); offset != "" {
			p.next += len(" ") + len(offset)
			p.tok.text = s[start:p.next-len(offset)-len(" ")] + "+" + offset
			return nil
		}
	case strings.IndexByte("(),/:*", c) >= 0:
		p.next++
		p.tok.kind = punct
	default:
		r, _ := utf8.DecodeRuneInString(s[start:])
		return p.syntaxError(start, "the character %q is not expected here", r)
	}
	p.tok.text = s[start:p.next]
	return nil
}

// quotedToken reads a string literal; a quote inside it is doubled.
func (p *parser) quotedToken() error {
	s, start, doubled := p.text, p.next, false
	for i := start + 1; i < len(s); i++ {
		if s[i] != '\'' {
			continue
		}
		if i+1 < len(s) && s[i+1] == '\'' {
			doubled = true
			i++
			continue
		}
		p.next = i + 1
		p.tok.kind, p.tok.text = quoted, s[start+1:i]
		if doubled {
			p.tok.text = strings.ReplaceAll(p.tok.text, "''", "'")
		}
		return nil
	}
	return p.syntaxError(start, "the quoted text has no closing quote; a quote inside it is written twice")
}

// decodedPlus recognises a date's offset whose plus sign was not percent-encoded
// and so was decoded to a blank: 2018-08-01T00:00:00 02:00. It returns the digits,
// or "" if rest does not go on like that.
func decodedPlus(date, rest string) string {
	const offset = "02:00"
	if len(date) < len("2018-08-01T00:00") || strings.ContainsAny(date[len("2018-08-01"):], "Zz+-") || len(rest) < 1+len(offset) || rest[0] != ' ' {
		return ""
	}
	digits := rest[1 : 1+len(offset)]
	for i := range len(digits) {
		if isDigit(digits[i]) != isDigit(offset[i]) || !isDigit(offset[i]) && digits[i] != offset[i] {
			return ""
		}
	}
	return digits
}

// span returns the end of the run of bytes from start on that are all in the class.
func span(s string, start int, class func(byte) bool) int {
	for i := start; i < len(s); i++ {
		if !class(s[i]) {
			return i
		}
	}
	return len(s)
}

func isDigit(c byte) bool    { return '0' <= c && c <= '9' }
func isLetter(c byte) bool   { return 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_' }
func isNameByte(c byte) bool { return isLetter(c) || isDigit(c) }
func isBareByte(c byte) bool { return isNameByte(c) || strings.IndexByte("-+.:", c) >= 0 }
