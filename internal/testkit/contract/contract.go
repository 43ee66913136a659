// Package contract holds what a handler does against its OpenAPI 3.1 document,
// so that neither can change without the other.
//
// It reads a document ([Load]), gives out what it says of operations, permissions
// and schemas, for comparisons with the tables of the code, and judges whole
// exchanges ([Document.Watch]). Of OpenAPI it knows what Cordon's documents use:
// references into the document itself, query and path parameters, one media type
// for each body, and a bearer token whose permissions are roles.
//
// A [Document] is safe for concurrent use; it starts no goroutine.
package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// Document is a document that has been read and found to be in order.
type Document struct {
	// Canonical, if it is set before use, spells the segments of a path as the
	// document does, where the server takes more spellings than can be documented.
	Canonical func(segments []string) []string
	// Optional are the names of members that an object of an answer may lack.
	Optional []string
	// AnyCase are the names of members of requests whose words are taken in any
	// case; documented is that with a capital at the beginning.
	AnyCase []string

	root     object
	compiler *jsonschema.Compiler
	prefixes [][]string // of paths, as segments in lower case; the longest first
	ops      []*Operation

	mu      sync.Mutex
	schemas map[string]*jsonschema.Schema // by where they are
	seen    map[string]int                // exchanges, by operation and status
}

// Operation is what the document says of a method on a path.
type Operation struct {
	ID, Method, Path string   // Path without what all paths begin with
	Permissions      []string // any one of which is enough, in the document's order
	Statuses         []int    // that it may answer with, in order

	segments   []*regexp.Regexp
	node       object
	at         string
	parameters []place
}

type object = map[string]any

// place is something of the document and where it is, as a JSON pointer.
type place struct {
	object
	at string
}

const address = "document.json" // what the compiler calls the document

var methods = []string{"get", "put", "post", "delete", "options", "head", "patch", "trace"}

// Load reads a document in YAML and fails the test where it is not in order:
// references that lead nowhere, components that nobody refers to, schemas that
// cannot be compiled, examples that do not fit, undeclared parameters of paths.
func Load(t testing.TB, text []byte) *Document {
	t.Helper()
	var parsed any
	if err := yaml.Unmarshal(text, &parsed); err != nil {
		t.Fatalf("read document: %v", err)
	}
	plain, err := json.Marshal(parsed)
	if err != nil {
		t.Fatalf("document is not as plain as JSON: %v", err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(plain))
	if err != nil {
		t.Fatal(err)
	}
	d := &Document{compiler: jsonschema.NewCompiler(), schemas: make(map[string]*jsonschema.Schema), seen: make(map[string]int)}
	d.root, _ = value.(object)
	if version, _ := d.root["openapi"].(string); !strings.HasPrefix(version, "3.1.") {
		t.Fatalf("OpenAPI %q is not 3.1", version)
	}
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(address, value); err != nil {
		t.Fatal(err)
	}
	for _, s := range list(d.root["servers"]) {
		_, path, _ := strings.Cut(strings.TrimPrefix(fmt.Sprint(s["url"]), "https://"), "/")
		d.prefixes = append(d.prefixes, split(strings.ToLower(path)))
	}
	slices.SortStableFunc(d.prefixes, func(a, b []string) int { return len(b) - len(a) })
	d.operations(t)
	d.components(t)
	d.examples(t)
	if t.Failed() {
		t.FailNow()
	}
	return d
}

func list(v any) (objects []object) {
	items, _ := v.([]any)
	for _, item := range items {
		o, _ := item.(object)
		objects = append(objects, o)
	}
	return objects
}

func split(path string) (segments []string) {
	for s := range strings.SplitSeq(path, "/") {
		if s = strings.TrimSpace(s); s != "" {
			segments = append(segments, s)
		}
	}
	return segments
}

func escape(key string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(key) }

// child is a member of p, wherever a reference says that it is; but a schema
// says more than what it refers to. It is nil if there is none.
func (d *Document) child(p place, keys ...string) place {
	for _, key := range keys {
		o, _ := p.object[key].(object)
		p = place{o, p.at + "/" + escape(key)}
		if key != "schema" {
			p = d.follow(p)
		}
	}
	return p
}

func (d *Document) follow(p place) place {
	for range 10 { // a longer chain is a circle
		ref, ok := p.object["$ref"].(string)
		if !ok {
			return p
		}
		p = place{d.root, "#"}
		for key := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			o, _ := p.object[strings.NewReplacer("~1", "/", "~0", "~").Replace(key)].(object)
			p = place{o, p.at + "/" + key}
		}
	}
	return place{}
}

var variable = regexp.MustCompile(`\{(.*?)\}`)

func (d *Document) operations(t testing.TB) {
	ids := make(map[string]bool)
	paths := d.child(place{d.root, "#"}, "paths")
	for _, path := range slices.Sorted(maps.Keys(paths.object)) {
		item := d.child(paths, path)
		for _, method := range methods {
			p := d.child(item, method)
			if p.object == nil {
				continue
			}
			op := &Operation{Method: strings.ToUpper(method), Path: path, node: p.object, at: p.at}
			op.ID, _ = p.object["operationId"].(string)
			if op.ID == "" || ids[op.ID] || p.object["summary"] == nil {
				t.Errorf("%s %s: operationId %q is missing or not unique, or there is no summary", op.Method, path, op.ID)
			}
			ids[op.ID] = true
			for _, s := range list(p.object["security"]) {
				for _, roles := range s {
					for _, role := range roles.([]any) {
						op.Permissions = append(op.Permissions, role.(string))
					}
				}
			}
			for status := range d.child(p, "responses").object {
				n, err := strconv.Atoi(status)
				if err != nil {
					t.Errorf("%s: status %q", op.ID, status)
				}
				op.Statuses = append(op.Statuses, n)
			}
			slices.Sort(op.Statuses)
			var named, declared []string
			for _, m := range variable.FindAllStringSubmatch(path, -1) {
				named = append(named, m[1])
			}
			for _, from := range []place{item, p} {
				for i, o := range list(from.object["parameters"]) {
					param := d.follow(place{o, from.at + "/parameters/" + strconv.Itoa(i)})
					op.parameters = append(op.parameters, param)
					if param.object["in"] == "path" {
						declared = append(declared, fmt.Sprint(param.object["name"]))
					}
				}
			}
			slices.Sort(named)
			slices.Sort(declared)
			if !slices.Equal(named, declared) {
				t.Errorf("%s: the path has %v, declared are %v", op.ID, named, declared)
			}
			for _, segment := range split(path) {
				pattern := regexp.QuoteMeta(variable.ReplaceAllString(segment, "\x00"))
				op.segments = append(op.segments, regexp.MustCompile("(?is)^"+strings.ReplaceAll(pattern, "\x00", ".*")+"$"))
			}
			d.ops = append(d.ops, op)
		}
	}
	// Of templates that a path fits the one with the fewest variables is meant.
	slices.SortStableFunc(d.ops, func(a, b *Operation) int { return strings.Count(a.Path, "{") - strings.Count(b.Path, "{") })
	slices.SortStableFunc(d.ops, func(a, b *Operation) int { return plain(b) - plain(a) })
}

// plain is how many bytes of a path are no variables.
func plain(op *Operation) int { return len(variable.ReplaceAllString(op.Path, "")) }

// spoken are components that belong to no operation, because they tell of paths
// or methods that are none.
var spoken = []string{"#/components/responses/NotFound", "#/components/responses/MethodNotAllowed"}

func (d *Document) components(t testing.TB) {
	used := make(map[string]bool)
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case object:
			if ref, ok := v["$ref"].(string); ok {
				used[ref] = true
				if d.follow(place{object: v}).object == nil {
					t.Errorf("$ref %s leads nowhere", ref)
				}
			}
			for _, item := range v {
				walk(item)
			}
		case []any:
			for _, item := range v {
				walk(item)
			}
		}
	}
	walk(d.root)
	for kind, members := range d.child(place{d.root, "#"}, "components").object {
		for name := range members.(object) {
			at := "#/components/" + kind + "/" + name
			if !used[at] && kind != "securitySchemes" && !slices.Contains(spoken, at) {
				t.Errorf("nobody refers to %s", at)
			}
			if kind == "schemas" {
				if _, err := d.schema(at); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// schema compiles what is at a place of the document, once.
func (d *Document) schema(at string) (*jsonschema.Schema, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.schemas[at]; s != nil {
		return s, nil
	}
	s, err := d.compiler.Compile(address + at)
	if err != nil {
		return nil, fmt.Errorf("schema %s: %w", at, err)
	}
	d.schemas[at] = s
	return s, nil
}

func (d *Document) validate(at string, value any) error {
	s, err := d.schema(at)
	if err != nil {
		return err
	}
	return s.Validate(value)
}

// examples holds the examples of all bodies and parameters against their schemas.
func (d *Document) examples(t testing.TB) {
	d.eachExample(func(schema, name string, value any) {
		if err := d.validate(schema, value); err != nil {
			t.Errorf("example %s: %v", name, err)
		}
	})
}

func (d *Document) eachExample(each func(schema, name string, value any)) {
	var walk func(p place)
	walk = func(p place) {
		if _, ok := p.object["schema"].(object); ok {
			at := d.child(p, "schema").at
			if example, ok := p.object["example"]; ok {
				each(at, p.at, example)
			}
			for name := range d.child(p, "examples").object {
				each(at, p.at+" "+name, d.child(p, "examples", name).object["value"])
			}
		}
		for key, v := range p.object {
			switch v := v.(type) {
			case object:
				if key != "schemas" && key != "schema" {
					walk(place{v, p.at + "/" + escape(key)})
				}
			case []any:
				for i, o := range list(v) {
					walk(place{o, fmt.Sprintf("%s/%s/%d", p.at, escape(key), i)})
				}
			}
		}
	}
	walk(place{d.root, "#"})
}

// Examples returns the examples of bodies of answers, by where they are.
func (d *Document) Examples() map[string]any {
	found := make(map[string]any)
	d.eachExample(func(_, name string, value any) {
		if strings.Contains(name, "/responses/") {
			found[name] = value
		}
	})
	return found
}

// Operations returns all operations of the document.
func (d *Document) Operations() []Operation {
	all := make([]Operation, len(d.ops))
	for i, op := range d.ops {
		all[i] = *op
	}
	return all
}

// Members returns the names of all members that a schema among the components
// documents, sorted, and which of them must be there.
func (d *Document) Members(t testing.TB, schema string) (all, required []string) {
	t.Helper()
	var walk func(p place)
	walk = func(p place) {
		all = slices.AppendSeq(all, maps.Keys(d.child(p, "properties").object))
		names, _ := p.object["required"].([]any)
		for _, name := range names {
			required = append(required, name.(string))
		}
		for i, o := range list(p.object["allOf"]) {
			walk(d.follow(place{o, p.at + "/allOf/" + strconv.Itoa(i)}))
		}
		if _, ok := p.object["$ref"]; ok {
			walk(d.follow(p))
		}
	}
	walk(place{d.child(place{d.root, "#"}, "components", "schemas").object[schema].(object), "#/components/schemas/" + schema})
	slices.Sort(all)
	slices.Sort(required)
	return slices.Compact(all), slices.Compact(required)
}

// Unseen returns the operations none of whose successes has been watched.
func (d *Document) Unseen() (ids []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, op := range d.ops {
		for _, status := range op.Statuses {
			if status < 300 && d.seen[key(op, status)] == 0 {
				ids = append(ids, op.ID)
			}
		}
	}
	return ids
}

func key(op *Operation, status int) string { return op.ID + " " + strconv.Itoa(status) }
