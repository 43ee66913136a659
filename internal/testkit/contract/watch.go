package contract

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Watch returns a handler that passes everything on to next, and fails the test
// where an exchange is not as documented: an answer always, a request where it
// succeeds. For the first bodies of each operation it also makes sure that the
// schema is strict: the body with another member, or without one that it has,
// must not fit.
func (d *Document) Watch(t testing.TB, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := exchange{document: d, method: r.Method, path: r.URL.EscapedPath(), query: r.URL.RawQuery, request: r.Header.Clone(), ResponseWriter: w, status: http.StatusOK}
		if r.Body != nil {
			r.Body = struct {
				io.Reader
				io.Closer
			}{io.TeeReader(r.Body, &x.sent), r.Body}
		}
		next.ServeHTTP(&x, r)
		if err := x.judge(); err != nil {
			t.Errorf("%s %s?%.200s answered %d %.300s\nNot as documented: %v", r.Method, x.path, x.query, x.status, x.got.Bytes(), err)
		}
	})
}

// Shared returns what watches all handlers of a test program by one document, which
// load reads when the first of them is watched.
func Shared(load func(testing.TB) *Document) func(testing.TB, http.Handler) http.Handler {
	var once sync.Once
	var d *Document
	return func(t testing.TB, next http.Handler) http.Handler {
		t.Helper()
		once.Do(func() { d = load(t) })
		if d == nil {
			t.Fatal("the document is not in order, see the first test that failed")
		}
		return d.Watch(t, next)
	}
}

// exchange is a request and its answer.
type exchange struct {
	document    *Document
	method      string
	path, query string
	request     http.Header
	sent        bytes.Buffer

	http.ResponseWriter
	status int
	got    bytes.Buffer
}

func (x *exchange) WriteHeader(status int) {
	x.status = status
	x.ResponseWriter.WriteHeader(status)
}

func (x *exchange) Write(b []byte) (int, error) {
	x.got.Write(b)
	return x.ResponseWriter.Write(b)
}

// find returns the operation of the exchange, and all methods of its path.
func (x *exchange) find() (op *Operation, allowed []string) {
	segments := split(x.path)
	for i, s := range segments {
		if plain, err := url.PathUnescape(s); err == nil {
			segments[i] = strings.TrimSpace(plain)
		}
	}
	segments = slices.DeleteFunc(segments, func(s string) bool { return s == "" })
	for _, prefix := range x.document.prefixes {
		if len(segments) >= len(prefix) && slices.EqualFunc(segments[:len(prefix)], prefix, strings.EqualFold) {
			segments = segments[len(prefix):]
			break
		}
	}
	if x.document.Canonical != nil {
		segments = x.document.Canonical(segments)
	}
	method := x.method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	path := ""
	for _, o := range x.document.ops {
		if path != "" && o.Path != path || len(o.segments) != len(segments) {
			continue
		}
		fits := true
		for i, s := range o.segments {
			fits = fits && s.MatchString(segments[i])
		}
		if !fits {
			continue
		}
		path = o.Path
		if o.Method == method {
			op = o
		}
		allowed = append(allowed, o.Method)
	}
	return op, allowed
}

func (x *exchange) judge() error {
	d := x.document
	op, allowed := x.find()
	if op == nil || x.method == http.MethodHead && x.status == http.StatusMethodNotAllowed {
		what := "NotFound"
		if allowed != nil {
			// Whether GET brings HEAD with it is the server's decision.
			allow := strings.Split(x.Header().Get("Allow"), ", ")
			if slices.Contains(allow, http.MethodHead) && slices.Contains(allowed, http.MethodGet) {
				allowed = append(allowed, http.MethodHead)
			}
			slices.Sort(allow)
			if slices.Sort(allowed); !slices.Equal(allow, allowed) {
				return fmt.Errorf("Allow: %v, documented are %v", allow, allowed)
			}
			what = "MethodNotAllowed"
		}
		if x.method == http.MethodOptions && x.status == http.StatusNoContent && allowed != nil {
			return nil
		}
		if want := map[string]int{"NotFound": 404, "MethodNotAllowed": 405}[what]; x.status != want {
			return fmt.Errorf("no such operation is documented, so the answer is %d", want)
		}
		return x.answer(d.child(place{d.root, "#"}, "components", "responses", what), nil)
	}
	if x.status < 300 {
		if err := x.asked(op); err != nil {
			return fmt.Errorf("request: %w", err)
		}
	}
	response := d.child(place{op.node, op.at}, "responses", strconv.Itoa(x.status))
	if response.object == nil {
		return fmt.Errorf("%s: this status is not documented", op.ID)
	}
	return x.answer(response, op)
}

// asked judges a request that succeeded.
func (x *exchange) asked(op *Operation) error {
	d := x.document
	given := make(map[string]string)
	for param := range strings.SplitSeq(x.query, "&") {
		name, value, _ := strings.Cut(param, "=")
		name, _ = url.QueryUnescape(name) // what cannot be read is as good as absent
		value, _ = url.QueryUnescape(value)
		given[strings.ToLower(strings.TrimSpace(name))] = value
	}
	for _, p := range op.parameters {
		if p.object["in"] != "query" {
			continue
		}
		name := fmt.Sprint(p.object["name"])
		value, ok := given[strings.ToLower(name)]
		if delete(given, strings.ToLower(name)); !ok {
			if p.object["required"] == true {
				return fmt.Errorf("parameter %s is missing", name)
			}
			continue
		}
		if err := d.text(d.child(p, "schema"), value); err != nil {
			return fmt.Errorf("parameter %s: %w", name, err)
		}
	}
	for name := range given {
		if strings.HasPrefix(name, "$") {
			return fmt.Errorf("parameter %s is not documented", name)
		}
	}
	body := d.child(place{op.node, op.at}, "requestBody")
	switch {
	case body.object == nil:
		return nil // what was sent means nothing
	case x.sent.Len() == 0 && body.object["required"] == true:
		return errors.New("the body is missing")
	case x.sent.Len() == 0:
		return nil
	}
	media, content := d.media(body)
	declared, _, _ := mime.ParseMediaType(x.request.Get("Content-Type"))
	switch {
	case media == "application/json" && declared != media:
		return fmt.Errorf("Content-Type is %q, documented is %s", declared, media)
	case media == "application/json":
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(x.sent.Bytes()))
		if err != nil {
			return err
		}
		if o, ok := value.(object); ok {
			for _, name := range d.AnyCase {
				if word, ok := o[name].(string); ok && word != "" {
					o[name] = strings.ToUpper(word[:1]) + strings.ToLower(word[1:])
				}
			}
		}
		if err := d.validate(content.at, value); err != nil {
			return err
		}
		return d.strict(content, value, true)
	}
	form, err := url.ParseQuery(x.sent.String())
	if err != nil {
		return err
	}
	value := make(object)
	for name, values := range form {
		value[name] = values[0]
	}
	return d.validate(content.at, value)
}

// media returns the one media type of a body, and its schema.
func (d *Document) media(p place) (string, place) {
	content := d.child(p, "content")
	for media := range content.object {
		return media, d.child(content, media, "schema")
	}
	return "", place{}
}

// text judges a value that came as text.
func (d *Document) text(schema place, value string) error {
	var v any = value
	switch schema.object["type"] {
	case "integer":
		v = json.Number(strings.TrimSpace(value))
		if _, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); err != nil {
			return err
		}
	case "boolean":
		b, err := strconv.ParseBool(strings.ToLower(value))
		if err != nil {
			return err
		}
		v = b
	}
	return d.validate(schema.at, v)
}

// transport are the headers that HTTP itself is about.
var transport = []string{"Content-Type", "Content-Length", "Date", "Connection", "Transfer-Encoding"}

// answer judges the answer. op is nil where there is none.
func (x *exchange) answer(response place, op *Operation) error {
	d := x.document
	documented := d.child(response, "headers")
	known := slices.Clone(transport)
	for name := range documented.object {
		header := d.child(documented, name)
		name = http.CanonicalHeaderKey(name)
		known = append(known, name)
		values := x.Header()[name]
		if len(values) == 0 {
			if header.object["required"] == true {
				return fmt.Errorf("the header %s is missing", name)
			}
			continue
		}
		if err := d.text(d.child(header, "schema"), values[0]); err != nil {
			return fmt.Errorf("header %s: %w", name, err)
		}
	}
	for name := range x.Header() {
		if !slices.Contains(known, name) {
			return fmt.Errorf("the header %s is not documented", name)
		}
	}
	media, schema := d.media(response)
	if x.method != http.MethodHead {
		body, err := x.unpacked()
		if err != nil {
			return err
		}
		declared, _, _ := mime.ParseMediaType(x.Header().Get("Content-Type"))
		switch {
		case media == "" && len(body) > 0:
			return errors.New("a body is not documented")
		case media != "" && declared != media:
			return fmt.Errorf("Content-Type is %q, documented is %q", declared, media)
		case media == "application/json":
			value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
			if err != nil {
				return err
			}
			if err := d.validate(schema.at, value); err != nil {
				return err
			}
			if op != nil && d.times(op, x.status) < enough {
				// Whoever selects members gets objects that lack the others.
				if err := d.strict(schema, value, strings.Contains(strings.ToLower(x.query), "select=")); err != nil {
					return err
				}
			}
		case media != "":
			if err := d.validate(schema.at, string(body)); err != nil {
				return err
			}
		}
	}
	if op != nil {
		d.mu.Lock()
		d.seen[key(op, x.status)]++
		d.mu.Unlock()
	}
	return nil
}

func (x *exchange) unpacked() ([]byte, error) {
	var r io.Reader = &x.got
	var err error
	switch coding := x.Header().Get("Content-Encoding"); coding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "deflate":
		r, err = zlib.NewReader(r)
	case "":
		r = bytes.NewReader(x.got.Bytes()) // it is shown when it is wrong
	default:
		err = fmt.Errorf("Content-Encoding %q", coding)
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// enough exchanges of a kind have shown that a schema is strict.
const enough = 3

// strict changes each object of a good body, and wants the schema to notice: a
// member more and, unless the body may lack some, one less.
func (d *Document) strict(schema place, body any, mayLack bool) error {
	var failed error
	var walk func(v any, at string)
	walk = func(v any, at string) {
		if list, ok := v.([]any); ok {
			for i, item := range list[:min(len(list), enough)] {
				walk(item, at+"/"+strconv.Itoa(i))
			}
		}
		o, ok := v.(object)
		if !ok {
			return
		}
		o["undocumented"] = "x"
		if d.validate(schema.at, body) == nil {
			failed = fmt.Errorf("the schema lets unknown members through at %q", at)
		}
		delete(o, "undocumented")
		for _, name := range slices.Collect(maps.Keys(o)) {
			value := o[name]
			walk(value, at+"/"+name)
			if mayLack || slices.Contains(d.Optional, name) {
				continue
			}
			if delete(o, name); d.validate(schema.at, body) == nil {
				failed = fmt.Errorf("the schema does not want the member %s at %q", name, at)
			}
			o[name] = value
		}
	}
	walk(body, "")
	return failed
}

// times is how often an operation has answered with a status.
func (d *Document) times(op *Operation, status int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seen[key(op, status)]
}
