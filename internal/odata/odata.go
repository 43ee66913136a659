// Package odata reads OData query options ($filter, $orderby, $top, $skip,
// $select, $count, $skiptoken) into a [cordon.Query], in every spelling that programs which
// speak to Defender were seen to use.
//
// # What it owns
//
// The syntax, and the names and types of the properties of Defender's two
// collections, [MachineActions] and [Machines]. What a query means is
// [cordon.Holds]; who answers it is a store.
//
// # What it promises
//
// [Parse] is pure and never panics. Its time and memory are linear in the
// length of the query string, which is at most [MaxLength]; the query it
// returns is no deeper and no larger than [MaxDepth] and [MaxTerms] allow.
// The package has no goroutine, no lock and no state.
//
// # What it leaves out
//
// $expand, $search, $apply and $format; arithmetic, comparisons of
// two properties, paths into objects, all(), and functions other than
// startswith, endswith and contains. Each is an error that says so.
package odata

import (
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cordon-project/cordon"
)

// The limits of a query.
const (
	MaxLength = 16 << 10 // bytes of the query string as [Next] writes it, without its $skiptoken
	MaxDepth  = 64       // parentheses, not and any() inside each other
	MaxTerms  = 2_000    // comparisons, functions, nots and values of in-lists together
	MaxIn     = 1_000    // values of one in-list
)

// Parse reads the part of a URL behind the question mark, as it came. Names of
// options and properties, operators and functions may be in any case. Parameters
// that do not begin with $ are ignored. A $top over [cordon.MaxTop] is reduced
// to it and the remainder goes to Rest.
//
// An error is a [*cordon.Error] of kind Invalid. Its code is
// [cordon.CodeMalformedQuery] where the query string is at fault (an unknown or
// repeated $option, an unusable value, a syntax error), and
// [cordon.CodeInvalidQuery] where it asks for what the collection does not have
// (a property that is unknown or cannot be filtered by, a value of the wrong
// type) or is larger than the limits.
func Parse(rawQuery string, s cordon.Schema) (cordon.Query, error) {
	var q cordon.Query
	if length := lengthOf(rawQuery); length > MaxLength {
		return q, unsupported("The query string has %d bytes, allowed are %d.", length, MaxLength)
	}
	values := make(map[string]string)
	for param := range strings.SplitSeq(rawQuery, "&") {
		rawName, rawValue, _ := strings.Cut(param, "=")
		name, err := unescape(rawName)
		if err != nil {
			return cordon.Query{}, err
		}
		if !strings.HasPrefix(name, "$") {
			continue
		}
		read, ok := options[cordon.Fold(name)]
		if !ok {
			return cordon.Query{}, malformed("Custom query option '%s' that starts with '$' is not supported.", excerpt(name))
		}
		if _, ok := values[cordon.Fold(name)]; ok {
			return cordon.Query{}, malformed("Query option '%s' was specified more than once, but it must be specified at most once.", name)
		}
		value, err := unescape(rawValue)
		if err != nil {
			return cordon.Query{}, err
		}
		if value == "" {
			return cordon.Query{}, malformed("The value for OData query '%s' cannot be empty.", name)
		}
		values[cordon.Fold(name)] = value
		if err := read(&q, &parser{option: cordon.Fold(name), text: value, schema: s}); err != nil {
			return cordon.Query{}, err
		}
	}
	if token, ok := values["$skiptoken"]; ok {
		if q.After, ok = decodeToken(token, digestOf(values["$filter"], values["$orderby"])); !ok {
			return cordon.Query{}, cordon.NoPosition()
		}
	}
	return q, nil
}

// lengthOf is the length that [MaxLength] limits. It is the same for all pages of
// an answer, but for what has gone from later ones.
func lengthOf(rawQuery string) (n int) {
	for param := range strings.SplitSeq(rawQuery, "&") {
		rawName, _, _ := strings.Cut(param, "=")
		if name, _ := unescape(rawName); cordon.Fold(name) != "$skiptoken" {
			n += len(asURL(param)) + len("&")
		}
	}
	return n - len("&")
}

// options are the query options by name, each with what reads its value.
var options = map[string]func(*cordon.Query, *parser) error{
	"$filter": func(q *cordon.Query, p *parser) (err error) {
		q.Filter, err = p.filter()
		return err
	},
	"$orderby": func(q *cordon.Query, p *parser) (err error) {
		q.OrderBy, err = p.orderBy()
		return err
	},
	"$select": func(q *cordon.Query, p *parser) (err error) {
		q.Select, err = p.selection()
		return err
	},
	"$top": func(q *cordon.Query, p *parser) error {
		n, err := p.wholeNumber()
		q.Top, q.HasTop = min(n, cordon.MaxTop), true
		q.Rest = n - q.Top
		return err
	},
	"$skip": func(q *cordon.Query, p *parser) (err error) {
		q.Skip, err = p.wholeNumber()
		return err
	},
	"$skiptoken": func(_ *cordon.Query, p *parser) error { // what it means depends on other options
		if len(p.text) > MaxToken {
			return cordon.NoPosition()
		}
		return nil
	},
	"$count": func(q *cordon.Query, p *parser) error {
		switch cordon.Fold(p.text) {
		case "true":
			q.Count = true
		case "false":
		default:
			return malformed("Invalid value '%s' for $count query option found. The $count query option requires true or false.", excerpt(p.text))
		}
		return nil
	},
}

// wholeNumber reads the value of $top or $skip, an Edm.Int32 that is not negative.
func (p *parser) wholeNumber() (int, error) {
	n, err := strconv.ParseUint(p.text, 10, 31)
	if err != nil {
		return 0, malformed("Invalid value '%s' for %s query option found. The %[2]s query option requires a non-negative integer value.", excerpt(p.text), p.option)
	}
	return int(n), nil
}

// unescape decodes a name or value of the query string.
func unescape(raw string) (string, error) {
	s, err := url.QueryUnescape(raw)
	if err != nil {
		return "", malformed("'%s' has a percent sign that is not followed by two hexadecimal digits; a percent sign itself is written %%25.", excerpt(raw))
	}
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return "", malformed("'%s' is not text: it has a NUL character or bytes that are not UTF-8.", excerpt(raw))
	}
	return strings.Trim(s, blanks), nil
}

const blanks = " \t\r\n"

// excerpt shortens what the caller wrote, for a message.
func excerpt(s string) string {
	const most = 64
	for i := range s {
		if i >= most {
			return s[:i] + "…"
		}
	}
	return s
}

// malformed is the error about a query string that cannot be read. The first
// sentence is the OData framework's own.
func malformed(format string, args ...any) error {
	return cordon.Errorf(cordon.Invalid, cordon.CodeMalformedQuery, "The query specified in the URI is not valid. "+format, args...)
}

// unsupported is the error about a query that can be read but not answered. The
// first words are Defender's (contract 3.2, ODataError).
func unsupported(format string, args ...any) error {
	return cordon.Errorf(cordon.Invalid, cordon.CodeInvalidQuery, "Invalid OData URI query. "+format, args...)
}
