package cordon

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// CodeMalformedQuery: the query string itself is at fault: an option that does
// not exist, one that is given twice or has an unusable value, or a syntax
// error. A query that can be read, but asks for what the collection does not
// offer, has [CodeInvalidQuery]. Defender clients see two shapes of answer
// (Defender contract 3.1 and 3.2).
const CodeMalformedQuery Code = "MalformedQuery"

// MaxTop is the most rows that one [Query] asks for (Defender contract 9).
const MaxTop = 10_000

// Query asks for a part of a collection. The zero Query asks for all of it, in
// the collection's own order.
type Query struct {
	Filter Expr // nil: every row
	// OrderBy are the keys of the order, of which the first decides. What they leave
	// open is decided by the order of creation (of machines: by the id), and in
	// reverse if the last key is Desc.
	OrderBy []Sort
	// After, if set, leaves out all rows up to a position that an answer to the same
	// Filter and OrderBy gave as its Next, before Skip does. Since a position is a
	// place in the order and not a number of rows, a sequence of pages shows each row
	// that was there all along, and kept its place, exactly once, whatever comes and goes.
	After  Position
	Skip   int // rows to leave out at the beginning, after ordering
	Top    int // the most rows to return, 0 to MaxTop; counts only if HasTop
	HasTop bool
	// Rest is how many rows the caller wants beyond Top, because a query asked
	// for more than MaxTop. An edge that has more rows says how to go on.
	Rest   int
	Select []Field // members that the caller wants to see; nil: all
	Count  bool    // the caller wants the number of rows that Filter lets through, whatever Skip and Top say
}

// Position is a place in the order of an answer: what its last row holds in the
// keys of the order. Only the store that gave it knows what they are. For what
// cannot be a position in the order of a query it has the error [NoPosition].
type Position []Value

// NoPosition is the error about a [Position] that is not of this query.
func NoPosition() error {
	return Errorf(Invalid, CodeMalformedQuery, "The query specified in the URI is not valid. The value of $skiptoken is not from an answer to this query; begin again without it.")
}

// Listing says of a page what its rows do not.
type Listing struct {
	Count int      // rows that the filter lets through, if the query asks for it
	Next  Position // the end of the page, if there are more rows behind it; nil: there are none, or Top is 0
}

// Sort is one key of an ordering, see [CompareRows].
type Sort struct {
	Field Field
	Desc  bool
}

// Field names a property of the rows of a collection. Names are those that
// people filter by, which is how the Defender contract spells them.
type Field string

// The fields that filters and orderings may name. FieldID belongs to machine
// actions and machines, the next group to machine actions, the last to machines.
const (
	FieldID Field = "id"

	FieldType      Field = "type"
	FieldStatus    Field = "status"
	FieldMachineID Field = "machineId"
	FieldRequestor Field = "requestor"
	FieldCreated   Field = "creationDateTimeUtc"
	FieldUpdated   Field = "lastUpdateDateTimeUtc"

	FieldDNSName          Field = "computerDnsName"
	FieldVersion          Field = "version"
	FieldDeviceValue      Field = "deviceValue"
	FieldDeviceID         Field = "aadDeviceId"
	FieldTags             Field = "machineTags"
	FieldLastSeen         Field = "lastSeen"
	FieldExposureLevel    Field = "exposureLevel"
	FieldOnboardingStatus Field = "onboardingStatus"
	FieldLastIP           Field = "lastIpAddress"
	FieldHealthStatus     Field = "healthStatus"
	FieldOSPlatform       Field = "osPlatform"
	FieldRiskScore        Field = "riskScore"
	FieldGroupID          Field = "rbacGroupId"
)

// ElementField stands for the element of the list inside [Any].
const ElementField Field = "$element"

// Value is what a field holds in one row, or what it is compared with: nil
// (null), string, bool, int64 or time.Time. A field of type [TypeStringList]
// holds a []string; nothing is compared with one.
type Value any

// Expr is a condition on a row: one of [And], [Or], [Not], [Compare], [In],
// [Match] and [Any]. [Holds] says what each means.
//
// Conditions are two-valued: each is true or false of a row, also where a
// field is null, and Not always turns one into the other. So "ne" is the exact
// opposite of "eq". (SQL's third value, unknown, does not exist here. OData has
// it for functions and for "not"; a caller sees the difference only in "not" of
// a function or of an ordering on a null field, which is true here.)
//
// Strings compare byte by byte (as UTF-8, which is the order of code points)
// and with regard to case. For a field whose [FieldInfo] says Fold, both the
// rows and the query hold the string as [Fold] returns it. Times compare by
// [Ticks]. Values of different types are neither equal nor ordered.
type Expr interface{ expr() }

// And is true where both are.
type And struct{ X, Y Expr }

// Or is true where one of them or both are.
type Or struct{ X, Y Expr }

// Not is true where X is false.
type Not struct{ X Expr }

// Compare compares a field with a value. Eq is true of null and null, and of
// equal values; Ne is its opposite. Lt, Le, Gt and Ge are false whenever one
// side is null, and for bools.
type Compare struct {
	Field Field
	Op    Op
	Value Value
}

// In is true where the field equals (as in [Compare]) one of the values. It is
// false without values.
type In struct {
	Field  Field
	Values []Value
}

// Match is true where the field is a string that begins with, ends with or
// contains Text. Every string contains the empty one; null does not.
type Match struct {
	Field Field
	Kind  MatchKind
	Text  string
}

// Any is true where X holds for at least one element of the list in Field,
// and, if X is nil, where the list has an element at all. X names no field but
// [ElementField]. A null list has no elements.
type Any struct {
	Field Field
	X     Expr
}

func (And) expr()     {}
func (Or) expr()      {}
func (Not) expr()     {}
func (Compare) expr() {}
func (In) expr()      {}
func (Match) expr()   {}
func (Any) expr()     {}

// Op is a comparison operator.
type Op uint8

// The comparison operators.
const (
	Eq Op = iota
	Ne
	Lt
	Le
	Gt
	Ge
)

// MatchKind says where a [Match] looks for its text.
type MatchKind uint8

// The kinds of [Match].
const (
	StartsWith MatchKind = iota
	EndsWith
	Contains
)

// Type is the type of a field.
type Type uint8

// The types. A field of TypeObject can be selected but has no value that a
// query could use.
const (
	TypeObject Type = iota
	TypeString
	TypeInt
	TypeBool
	TypeTime
	TypeStringList
)

// FieldInfo describes a field of a collection.
type FieldInfo struct {
	Name       Field
	Type       Type
	Filterable bool // filters may name it, and orderings too unless it is a list
	Fold       bool // upper and lower case are the same; queries see the value as [Fold] returns it
	Nullable   bool // a row may hold nil
}

// Schema describes the fields of a collection. Its keys are the names after [Fold].
type Schema map[string]FieldInfo

// NewSchema makes the schema that has these fields.
func NewSchema(fields ...FieldInfo) Schema {
	s := make(Schema, len(fields))
	for _, f := range fields {
		s[Fold(string(f.Name))] = f
	}
	return s
}

// Lookup finds a field by its name in any case.
func (s Schema) Lookup(name string) (FieldInfo, bool) {
	f, ok := s[Fold(name)]
	return f, ok
}

// Fold returns s with A to Z in lower case and every other byte as it is, which
// is what SQL engines agree on without a locale.
func Fold(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// Ticks returns how many times [Tick] has passed since 1970-01-01 UTC, rounded
// down. It is exact for the years 1 to 9999.
func Ticks(t time.Time) int64 {
	return t.Unix()*int64(time.Second/Tick) + int64(t.Nanosecond())/int64(Tick)
}

// TimeOfTicks is the inverse of [Ticks]. It is in UTC.
func TimeOfTicks(ticks int64) time.Time {
	const second = int64(time.Second / Tick)
	return time.Unix(ticks/second, ticks%second*int64(Tick)).UTC()
}

// Holds reports whether e is true of the row whose fields row returns. A nil e
// is true of every row. It is the definition of what queries mean; a store may
// find its rows in any other way that gives the same answer.
func Holds(e Expr, row func(Field) Value) bool {
	switch e := e.(type) {
	case And:
		return Holds(e.X, row) && Holds(e.Y, row)
	case Or:
		return Holds(e.X, row) || Holds(e.Y, row)
	case Not:
		return !Holds(e.X, row)
	case Compare:
		return e.Op.holds(row(e.Field), e.Value)
	case In:
		v := row(e.Field)
		return slices.ContainsFunc(e.Values, func(w Value) bool { return Eq.holds(v, w) })
	case Match:
		s, ok := row(e.Field).(string)
		return ok && e.Kind.holds(s, e.Text)
	case Any:
		list, _ := row(e.Field).([]string)
		return slices.ContainsFunc(list, func(s string) bool {
			return Holds(e.X, func(Field) Value { return s })
		})
	}
	return true
}

func (op Op) holds(v, w Value) bool {
	if op == Ne {
		return !Eq.holds(v, w)
	}
	if v == nil || w == nil {
		return op == Eq && v == nil && w == nil
	}
	if a, ok := v.(bool); ok {
		b, ok := w.(bool)
		return ok && op == Eq && a == b
	}
	c, ok := compareValues(v, w)
	if !ok {
		return false
	}
	switch op {
	case Eq:
		return c == 0
	case Lt:
		return c < 0
	case Le:
		return c <= 0
	case Gt:
		return c > 0
	default:
		return c >= 0
	}
}

// compareValues orders two values of one ordered type.
func compareValues(v, w Value) (int, bool) {
	switch v := v.(type) {
	case string:
		w, ok := w.(string)
		return strings.Compare(v, w), ok
	case int64:
		w, ok := w.(int64)
		return cmp.Compare(v, w), ok
	case time.Time:
		w, ok := w.(time.Time)
		return cmp.Compare(Ticks(v), Ticks(w)), ok
	}
	return 0, false
}

func (k MatchKind) holds(s, text string) bool {
	switch k {
	case StartsWith:
		return strings.HasPrefix(s, text)
	case EndsWith:
		return strings.HasSuffix(s, text)
	default:
		return strings.Contains(s, text)
	}
}

// CompareRows compares two rows by the keys of an ordering: negative if a comes
// first, positive if b does, 0 if the keys leave it open. Null comes before
// every value (after it where Desc is set), false before true.
func CompareRows(by []Sort, a, b func(Field) Value) int {
	for _, s := range by {
		c := orderValues(a(s.Field), b(s.Field))
		if s.Desc {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

func orderValues(v, w Value) int {
	switch {
	case v == nil && w == nil:
		return 0
	case v == nil:
		return -1
	case w == nil:
		return 1
	}
	if b, ok := v.(bool); ok {
		switch {
		case v == w:
			return 0
		case b:
			return 1
		default:
			return -1
		}
	}
	c, _ := compareValues(v, w)
	return c
}
