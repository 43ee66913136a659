package mdeapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cordon-project/cordon"
)

// resource is a type of thing that the API shows: the name of its collection,
// and its members in the order in which they go out.
type resource[T any] struct {
	set     string
	members []member[T]
}

// member is one member of a resource; write appends its value for a row in JSON.
type member[T any] struct {
	name  cordon.Field
	write func([]byte, *T) []byte
}

// context begins an object whose "@odata.context" says what it holds. The
// address is the one that the client called, version prefix included: clients
// and libraries resolve it against that, and Defender is seen to echo the host.
func (c *call) context(what string) []byte {
	b := append([]byte(nil), `{"@odata.context":`...)
	return appendString(b, c.base+c.prefix+"/$metadata#"+what)
}

// entity is the body of an answer that is one resource.
func (r resource[T]) entity(c *call, row *T) []byte {
	b := c.context(r.set + "/$entity")
	for _, m := range r.members {
		b = append(b, ',')
		b = m.append(b, row)
	}
	return append(b, '}')
}

// page is a part of a collection.
type page[T any] struct {
	rows  []T
	count int    // rows in all, if the query asks for it
	next  string // address of the rest, or empty
}

// collection is the body of an answer that is a list.
func (r resource[T]) collection(c *call, q cordon.Query, p page[T]) []byte {
	what, members := r.set, r.members
	if q.Select != nil {
		members = nil
		var names []string
		for _, m := range r.members {
			if slices.Contains(q.Select, m.name) {
				members, names = append(members, m), append(names, string(m.name))
			}
		}
		what += "(" + strings.Join(names, ",") + ")"
	}
	b := c.context(what)
	if q.Count {
		b = append(b, `,"@odata.count":`...)
		b = strconv.AppendInt(b, int64(p.count), 10)
	}
	b = append(b, `,"value":[`...)
	for i := range p.rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		for j, m := range members {
			if j > 0 {
				b = append(b, ',')
			}
			b = m.append(b, &p.rows[i])
		}
		b = append(b, '}')
	}
	b = append(b, ']')
	if p.next != "" {
		b = append(b, `,"@odata.nextLink":`...)
		b = appendString(b, p.next)
	}
	return append(b, '}')
}

func (m member[T]) append(b []byte, row *T) []byte {
	b = append(b, '"')
	b = append(b, m.name...)
	b = append(b, `":`...)
	return m.write(b, row)
}

// The ways to write a member.

func literal[T any](json string) func([]byte, *T) []byte {
	return func(b []byte, _ *T) []byte { return append(b, json...) }
}

func text[T any, S ~string](get func(*T) S) func([]byte, *T) []byte {
	return func(b []byte, row *T) []byte { return appendString(b, string(get(row))) }
}

// textOrNull writes null for the empty string.
func textOrNull[T any, S ~string](get func(*T) S) func([]byte, *T) []byte {
	return func(b []byte, row *T) []byte { return appendStringOrNull(b, string(get(row))) }
}

func moment[T any](get func(*T) time.Time) func([]byte, *T) []byte {
	return func(b []byte, row *T) []byte { return appendTime(b, get(row)) }
}

func appendStringOrNull(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return appendString(b, s)
}

// appendTime writes a time as Defender does (contract 1): UTC, up to seven
// digits of a second, zeros at the end cut off.
func appendTime(b []byte, t time.Time) []byte {
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, "2006-01-02T15:04:05.9999999Z")
	return append(b, '"')
}

// appendString writes a JSON string in which <, > and & stay as they are.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if ch := s[i]; ch < ' ' || ch == '"' || ch == '\\' || ch >= utf8.RuneSelf {
			return appendEscaped(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func appendEscaped(b []byte, s string) []byte {
	w := bytes.NewBuffer(b)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(fmt.Sprintf("encode a string: %v", err)) // cannot happen
	}
	return bytes.TrimSuffix(w.Bytes(), []byte("\n"))
}
