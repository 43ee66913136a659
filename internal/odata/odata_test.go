package odata_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/odata"
	"github.com/cordon-project/cordon/internal/testkit/golden"
)

const (
	hex40 = "dc909e4a81d1abcdefabcdef9bebe6f8ec7d3506"
	guid  = "d78dc223-8dc8-1234-5678-abcdef03505b"
)

func eq(f cordon.Field, v cordon.Value) cordon.Expr { return cordon.Compare{Field: f, Value: v} }

func compare(f cordon.Field, op cordon.Op, v cordon.Value) cordon.Expr {
	return cordon.Compare{Field: f, Op: op, Value: v}
}

func and(x, y cordon.Expr) cordon.Expr { return cordon.And{X: x, Y: y} }
func or(x, y cordon.Expr) cordon.Expr  { return cordon.Or{X: x, Y: y} }
func not(x cordon.Expr) cordon.Expr    { return cordon.Not{X: x} }

func match(f cordon.Field, k cordon.MatchKind, text string) cordon.Expr {
	return cordon.Match{Field: f, Kind: k, Text: text}
}

func date(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return t.UTC()
}

// TestCaptured reads query strings as programs were seen to send them.
func TestCaptured(t *testing.T) {
	tests := []struct {
		name   string
		raw    string
		schema cordon.Schema
		want   cordon.Query
	}{
		{"nothing", "", odata.Machines, cordon.Query{}},
		{"connection test", "$top=1", odata.Machines, cordon.Query{Top: 1, HasTop: true}},
		{"Cortex responder", "$filter=computerDnsName+eq+'host1.example.org'", odata.Machines,
			cordon.Query{Filter: eq("computerDnsName", "host1.example.org")}},
		{"MCP server, machines", "%24filter=computerDnsName%20eq%20%27host1.example.org%27&%24top=5&%24orderby=lastSeen%20desc", odata.Machines,
			cordon.Query{Filter: eq("computerDnsName", "host1.example.org"), Top: 5, HasTop: true, OrderBy: []cordon.Sort{{Field: "lastSeen", Desc: true}}}},
		{"MCP server, actions", "%24filter=type%20eq%20%27RestrictCodeExecution%27%20and%20machineId%20eq%20%27" + hex40 + "%27&%24top=3", odata.MachineActions,
			cordon.Query{Filter: and(eq("type", "RestrictCodeExecution"), eq("machineId", hex40)), Top: 3, HasTop: true}},
		{"PowerShell, Pascal case, raw blanks", "$filter=CreationDateTimeUtc ge 2026-01-01T00:00:00Z&$orderby=CreationDateTimeUtc desc", odata.MachineActions,
			cordon.Query{Filter: compare("creationDateTimeUtc", cordon.Ge, date("2026-01-01T00:00:00Z")), OrderBy: []cordon.Sort{{Field: "creationDateTimeUtc", Desc: true}}}},
		{"SOAR, disjunction", "$filter=(machineId eq 'a' and status eq 'Succeeded') or (machineId eq 'b' and status eq 'Succeeded')&$top=50", odata.MachineActions,
			cordon.Query{Filter: or(and(eq("machineId", "a"), eq("status", "Succeeded")), and(eq("machineId", "b"), eq("status", "Succeeded"))), Top: 50, HasTop: true}},
		{"no blank before and", "$filter=machineId+eq+'" + hex40 + "'and type+eq+'RestrictCodeExecution'", odata.MachineActions,
			cordon.Query{Filter: and(eq("machineId", hex40), eq("type", "RestrictCodeExecution"))}},
		{"Kibana", "%24count=true&%24filter=id+in+('" + guid + "'%2C'" + guid + "')+AND+status+eq+'Pending'&%24orderby=lastUpdateDateTimeUtc+asc&%24top=20&%24skip=40", odata.MachineActions,
			cordon.Query{Filter: and(cordon.In{Field: "id", Values: []cordon.Value{guid, guid}}, eq("status", "Pending")), Count: true,
				OrderBy: []cordon.Sort{{Field: "lastUpdateDateTimeUtc"}}, Top: 20, HasTop: true, Skip: 40}},
		{"Elastic", "$filter=lastUpdateDateTimeUtc+gt+2025-04-03T10:20:00.154974Z&$orderby=lastUpdateDateTimeUtc+asc&$top=10000&$skip=0", odata.MachineActions,
			cordon.Query{Filter: compare("lastUpdateDateTimeUtc", cordon.Gt, date("2025-04-03T10:20:00.154974Z")), OrderBy: []cordon.Sort{{Field: "lastUpdateDateTimeUtc"}}, Top: 10_000, HasTop: true}},

		{"docs, latest two", "$filter=machineId eq '" + hex40 + "'&$top=2", odata.MachineActions, cordon.Query{Filter: eq("machineId", hex40), Top: 2, HasTop: true}},
		{"docs, requestor", "$filter=requestor eq 'a@b' and type eq 'RunAntiVirusScan'", odata.MachineActions,
			cordon.Query{Filter: and(eq("requestor", "a@b"), eq("type", "RunAntiVirusScan"))}},
		{"docs, risk", "$filter=riskScore+eq+'High'", odata.Machines, cordon.Query{Filter: eq("riskScore", "High")}},
		{"docs, health", "$filter=healthStatus+ne+'Active'", odata.Machines, cordon.Query{Filter: compare("healthStatus", cordon.Ne, "Active")}},
		{"docs, a date without time", "$filter=lastSeen gt 2018-08-01Z", odata.Machines, cordon.Query{Filter: compare("lastSeen", cordon.Gt, date("2018-08-01T00:00:00Z"))}},
		{"docs, startswith", "$filter=startswith(computerDnsName,'mymachine')", odata.Machines, cordon.Query{Filter: match("computerDnsName", cordon.StartsWith, "mymachine")}},
		{"docs, tag", "$filter=machineTags/any(tag: tag eq 'ExampleTag')", odata.Machines, cordon.Query{Filter: cordon.Any{Field: "machineTags", X: eq(cordon.ElementField, "exampletag")}}},
		{"plain parameters", "tag=x&useStartsWithFilter=true&$top=1&filter=nonsense((&api-version=1.0&100=%zz", odata.Machines, cordon.Query{Top: 1, HasTop: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := odata.Parse(tt.raw, tt.schema)
			if err != nil {
				t.Fatalf("Parse(%q): %v", tt.raw, err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Parse(%q), -want +got:\n%s", tt.raw, diff)
			}
		})
	}
}

// TestFilter reads one $filter each.
func TestFilter(t *testing.T) {
	noon := date("2019-11-22T12:00:00Z")
	seen := func(v cordon.Value) cordon.Expr { return eq("lastSeen", v) }
	tests := []struct {
		filter string
		want   cordon.Expr
	}{
		// Precedence: not, then and, then or.
		{"id eq 'a' or id eq 'b' and id eq 'c'", or(eq("id", "a"), and(eq("id", "b"), eq("id", "c")))},
		{"id eq 'a' and id eq 'b' or id eq 'c'", or(and(eq("id", "a"), eq("id", "b")), eq("id", "c"))},
		{"(id eq 'a' or id eq 'b') and id eq 'c'", and(or(eq("id", "a"), eq("id", "b")), eq("id", "c"))},
		{"not id eq 'a' and id eq 'b'", and(not(eq("id", "a")), eq("id", "b"))},
		{"not (id eq 'a' and id eq 'b')", not(and(eq("id", "a"), eq("id", "b")))},
		{"not not(id eq 'a')", not(not(eq("id", "a")))},
		{"((id eq 'a'))", eq("id", "a")},
		{"NOT contains(version,'2')", not(match("version", cordon.Contains, "2"))},
		{"id eq 'a'OR(id eq 'b')aNd id eq'c'", or(eq("id", "a"), and(eq("id", "b"), eq("id", "c")))},

		// Operators and functions.
		{"version ne '1'", compare("version", cordon.Ne, "1")},
		{"version LT '1'", compare("version", cordon.Lt, "1")},
		{"version le '1'", compare("version", cordon.Le, "1")},
		{"version Gt '1'", compare("version", cordon.Gt, "1")},
		{"version ge '1'", compare("version", cordon.Ge, "1")},
		{"startsWith(version,'1')", match("version", cordon.StartsWith, "1")},
		{"ENDSWITH ( version , '1' )", match("version", cordon.EndsWith, "1")},
		{"contains(version,'')", match("version", cordon.Contains, "")},
		{"contains(version,'1') eq true", match("version", cordon.Contains, "1")},
		{"contains(version,'1') ne false", match("version", cordon.Contains, "1")},
		{"contains(version,'1') eq false", not(match("version", cordon.Contains, "1"))},
		{"(id eq 'a') ne true and id eq 'b'", and(not(eq("id", "a")), eq("id", "b"))},
		{"machineTags/any() eq false", not(cordon.Any{Field: "machineTags"})},
		{"riskScore IN('High', 'Medium' ,null)", cordon.In{Field: "riskScore", Values: []cordon.Value{"High", "Medium", nil}}},
		{"rbacGroupId in (1)", cordon.In{Field: "rbacGroupId", Values: []cordon.Value{int64(1)}}},

		// any()
		{"machineTags/any()", cordon.Any{Field: "machineTags"}},
		{"MachineTags / Any ( )", cordon.Any{Field: "machineTags"}},
		{"not machineTags/any()", not(cordon.Any{Field: "machineTags"})},
		{"machineTags/any(t:T eq 'a' or startswith(t,'B'))and id eq 'c'", and(
			cordon.Any{Field: "machineTags", X: or(eq(cordon.ElementField, "a"), match(cordon.ElementField, cordon.StartsWith, "b"))},
			eq("id", "c"))},
		{"machineTags/any(id: not (id in ('a','B')))", cordon.Any{Field: "machineTags", X: not(cordon.In{Field: cordon.ElementField, Values: []cordon.Value{"a", "b"}})}},

		// Strings: exact, except for ids and names of machines.
		{"healthStatus eq 'ACTIVE'", eq("healthStatus", "ACTIVE")},
		{"id eq 'DC909E'", eq("id", "dc909e")},
		{"computerDnsName in ('HOST.Example.ORG')", cordon.In{Field: "computerDnsName", Values: []cordon.Value{"host.example.org"}}},
		{"startswith(computerDnsName,'HOST')", match("computerDnsName", cordon.StartsWith, "host")},
		{"aadDeviceId eq " + strings.ToUpper(guid), eq("aadDeviceId", guid)},
		{"aadDeviceId eq 01F7d891-1234-5678-abcd-abcdefa2edf3", eq("aadDeviceId", "01f7d891-1234-5678-abcd-abcdefa2edf3")},
		{"version eq 'it''s'", eq("version", "it's")},
		{"version eq ''", eq("version", "")},
		{"version eq ''''", eq("version", "'")},
		{"version eq '''a'''''", eq("version", "'a''")},
		{"version eq ' and (id eq '", eq("version", " and (id eq ")},
		{"version eq 'ünï 漢'", eq("version", "ünï 漢")},
		{"riskScore eq null", eq("riskScore", nil)},
		{"riskScore ne NULL", compare("riskScore", cordon.Ne, nil)},
		{"lastSeen lt null", compare("lastSeen", cordon.Lt, nil)},

		// Numbers.
		{"rbacGroupId eq 140", eq("rbacGroupId", int64(140))},
		{"rbacGroupId eq -1", eq("rbacGroupId", int64(-1))},
		{"rbacGroupId eq '140'", eq("rbacGroupId", int64(140))},
		{"rbacGroupId gt 9223372036854775807", compare("rbacGroupId", cordon.Gt, int64(9223372036854775807))},

		// Dates.
		{"lastSeen eq 2019-11-22T12:00:00Z", seen(noon)},
		{"lastSeen eq 2019-11-22t12:00:00z", seen(noon)},
		{"lastSeen eq '2019-11-22T12:00:00Z'", seen(noon)},
		{"lastSeen eq 2019-11-22T12:00:00", seen(noon)},
		{"lastSeen eq 2019-11-22T12:00Z", seen(noon)},
		{"lastSeen eq 2019-11-22T14:00:00+02:00", seen(noon)},
		{"lastSeen eq 2019-11-22T14:00:00 02:00", seen(noon)}, // the plus sign was not encoded
		{"lastSeen eq 2019-11-22T14:00:00.5 02:00 and id eq 'a'", and(seen(noon.Add(time.Second/2)), eq("id", "a"))},
		{"lastSeen eq 2019-11-22T06:30:00-05:30", seen(noon)},
		{"lastSeen eq 2019-11-22T12:00:00.1234567Z", seen(noon.Add(123456700))},
		{"lastSeen eq 2019-11-22T12:00:00.123456789012Z", seen(noon.Add(123456700))},
		{"lastSeen eq 2019-11-22", seen(date("2019-11-22T00:00:00Z"))},
		{"lastSeen eq '2019-11-22Z'", seen(date("2019-11-22T00:00:00Z"))},
		{"(lastSeen ge 2019-11-22Z)and(lastSeen lt 2019-11-23Z)", and(compare("lastSeen", cordon.Ge, date("2019-11-22T00:00:00Z")), compare("lastSeen", cordon.Lt, date("2019-11-23T00:00:00Z")))},
		{"lastSeen in (2019-11-22,2019-11-23Z)", cordon.In{Field: "lastSeen", Values: []cordon.Value{date("2019-11-22T00:00:00Z"), date("2019-11-23T00:00:00Z")}}},
	}
	for _, tt := range tests {
		got, err := odata.Parse("$filter="+url.QueryEscape(tt.filter), odata.Machines)
		if err != nil {
			t.Errorf("%s: %v", tt.filter, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got.Filter); diff != "" {
			t.Errorf("%s, -want +got:\n%s", tt.filter, diff)
		}
	}
}

// flags is a schema with what no collection has: bools that can be filtered
// by, and a list that folds.
var flags = cordon.NewSchema(
	cordon.FieldInfo{Name: "on", Type: cordon.TypeBool, Filterable: true},
	cordon.FieldInfo{Name: "names", Type: cordon.TypeStringList, Filterable: true, Fold: true},
)

func TestBools(t *testing.T) {
	tests := []struct {
		filter string
		want   cordon.Expr
	}{
		{"on", eq("on", true)},
		{"not on", not(eq("on", true))},
		{"ON eq True", eq("on", true)},
		{"on ne false", compare("on", cordon.Ne, false)},
		{"on in (true,false)", cordon.In{Field: "on", Values: []cordon.Value{true, false}}},
		{"(on)and on", and(eq("on", true), eq("on", true))},
		{"names/any(n:n eq 'ABC' and contains(n,'B'))", cordon.Any{Field: "names", X: and(eq(cordon.ElementField, "abc"), match(cordon.ElementField, cordon.Contains, "b"))}},
	}
	for _, tt := range tests {
		got, err := odata.Parse("$filter="+tt.filter, flags)
		if err != nil {
			t.Errorf("%s: %v", tt.filter, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got.Filter); diff != "" {
			t.Errorf("%s, -want +got:\n%s", tt.filter, diff)
		}
	}
	for _, filter := range []string{"on gt false", "on eq 1", "on eq 'true'", "on eq"} {
		if q, err := odata.Parse("$filter="+filter, flags); err == nil {
			t.Errorf("%s: no error but %+v", filter, q)
		}
	}
}

func TestOptions(t *testing.T) {
	tests := []struct {
		raw  string
		want cordon.Query
	}{
		{"$top=0", cordon.Query{HasTop: true}},
		{"$top=+7+", cordon.Query{HasTop: true, Top: 7}},
		{"$TOP=7&$Skip=8&$COUNT=True", cordon.Query{HasTop: true, Top: 7, Skip: 8, Count: true}},
		{"$count=false", cordon.Query{}},
		{"$top=10000", cordon.Query{HasTop: true, Top: 10_000}},
		{"$top=10001", cordon.Query{HasTop: true, Top: 10_000, Rest: 1}},
		{"$top=2147483647", cordon.Query{HasTop: true, Top: 10_000, Rest: 2147473647}},
		{"$orderby=lastSeen", cordon.Query{OrderBy: []cordon.Sort{{Field: "lastSeen"}}}},
		{"$orderby=LastSeen%20DESC,ID+asc%2C+riskScore", cordon.Query{OrderBy: []cordon.Sort{{Field: "lastSeen", Desc: true}, {Field: "id"}, {Field: "riskScore"}}}},
		{"$select=id,ipAddresses, OSPlatform,id", cordon.Query{Select: []cordon.Field{"id", "ipAddresses", "osPlatform"}}},
		{"$select=*", cordon.Query{}},
		{"&&=&$top=1&", cordon.Query{HasTop: true, Top: 1}},
		{"%24%74op=1", cordon.Query{HasTop: true, Top: 1}},
	}
	for _, tt := range tests {
		got, err := odata.Parse(tt.raw, odata.Machines)
		if err != nil {
			t.Errorf("%s: %v", tt.raw, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s, -want +got:\n%s", tt.raw, diff)
		}
	}
}

// TestErrors reads the query strings in testdata/errors.txt, each of which has
// below it the code and the message that it gets.
func TestErrors(t *testing.T) {
	const file = "testdata/errors.txt"
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var fresh bytes.Buffer
	for line := range strings.Lines(string(old)) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "\t") {
			continue
		}
		fmt.Fprintln(&fresh, line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		q, err := odata.Parse(line, odata.Machines)
		var e *cordon.Error
		if !errors.As(err, &e) || e.Kind != cordon.Invalid {
			t.Errorf("%s: got %+v and the error %v, want an Invalid *cordon.Error", line, q, err)
			continue
		}
		if diff := cmp.Diff(cordon.Query{}, q); diff != "" {
			t.Errorf("%s: half a query beside the error:\n%s", line, diff)
		}
		fmt.Fprintf(&fresh, "\t%s: %s\n", e.Code, e.Message)
	}
	golden.Compare(t, file, fresh.Bytes())
}

// TestFields holds which properties can be filtered by (Defender contract 9).
func TestFields(t *testing.T) {
	tests := []struct {
		name       string
		schema     cordon.Schema
		members    int
		filterable string
	}{
		{"machineactions", odata.MachineActions, 20, "id type requestor status machineId creationDateTimeUtc lastUpdateDateTimeUtc"},
		{"machines", odata.Machines, 31, "id computerDnsName lastSeen osPlatform version lastIpAddress healthStatus deviceValue rbacGroupId riskScore exposureLevel aadDeviceId machineTags onboardingStatus"},
	}
	for _, tt := range tests {
		if len(tt.schema) != tt.members {
			t.Errorf("%s has %d members, want %d", tt.name, len(tt.schema), tt.members)
		}
		want := make(map[string]bool)
		for f := range strings.FieldsSeq(tt.filterable) {
			want[cordon.Fold(f)] = true
		}
		for key, f := range tt.schema {
			if key != cordon.Fold(string(f.Name)) || f.Filterable != want[key] || f.Filterable && f.Type == cordon.TypeObject {
				t.Errorf("%s: %s is %+v", tt.name, key, f)
			}
			delete(want, key)
		}
		if len(want) > 0 {
			t.Errorf("%s lacks %v", tt.name, want)
		}
	}
}

func repeat(first, next string, n int) string { return first + strings.Repeat(next, n-1) }

func TestLimits(t *testing.T) {
	wrap := func(open, inner, shut string, n int) string {
		return strings.Repeat(open, n) + inner + strings.Repeat(shut, n)
	}
	tests := []struct {
		name     string
		ok, over string
		message  string
	}{
		{"parentheses", wrap("(", "id+eq+''", ")", 64), wrap("(", "id+eq+''", ")", 65), "levels deep"},
		{"nots", wrap("not+", "id+eq+''", "", 64), wrap("not+", "id+eq+''", "", 65), "levels deep"},
		{"any", wrap("(", "machineTags/any(t:t+eq+'')", ")", 63), wrap("(", "machineTags/any(t:t+eq+'')", ")", 64), "levels deep"},
		{"list", "rbacGroupId+in+(" + repeat("1", ",1", 1000) + ")", "rbacGroupId+in+(" + repeat("1", ",1", 1001) + ")", "more than 1000 values"},
		{"terms", repeat("rbacGroupId+in+(1,1,1,1,1)", "+or+rbacGroupId+in+(1,1,1,1,1)", 400), repeat("rbacGroupId+in+(1,1,1,1,1)", "+or+rbacGroupId+in+(1,1,1,1,1)", 400) + "or+id+eq+''", "more than 2000"},
		{"length", "id+eq+'" + strings.Repeat("x", odata.MaxLength-len("$filter=id+eq+''")) + "'", "id+eq+'" + strings.Repeat("x", odata.MaxLength-len("$filter=id+eq+''")+1) + "'", "has 16385 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q, err := odata.Parse("$filter="+tt.ok, odata.Machines)
			if err != nil {
				t.Fatalf("within the limit: %v", err)
			}
			if d := depth(q.Filter); d > 70 {
				t.Errorf("the tree is %d deep", d)
			}
			_, err = odata.Parse("$filter="+tt.over, odata.Machines)
			if cordon.CodeOf(err) != cordon.CodeInvalidQuery || !strings.Contains(err.Error(), tt.message) {
				t.Errorf("over the limit: %v", err)
			}
		})
	}
}

// TestLongChain holds that a flat list is no nesting, and is no deep tree either.
func TestLongChain(t *testing.T) {
	for _, op := range []string{"and", "or"} {
		q, err := odata.Parse("$filter="+repeat("id+eq+''", "+"+op+"+id+eq+''", 1001), odata.Machines)
		if err != nil {
			t.Errorf("%s: %v", op, err)
		}
		if d := depth(q.Filter); d != 11 {
			t.Errorf("%s: the tree is %d deep, want 11", op, d)
		}
	}
	if _, err := odata.Parse("$filter="+repeat("not(id+eq+'')", "+or+not(id+eq+'')", 500), odata.Machines); err != nil {
		t.Errorf("brackets beside each other: %v", err)
	}
}

// depth is the greatest number of nodes above each other.
func depth(e cordon.Expr) int {
	switch e := e.(type) {
	case nil:
		return 0
	case cordon.And:
		return 1 + max(depth(e.X), depth(e.Y))
	case cordon.Or:
		return 1 + max(depth(e.X), depth(e.Y))
	case cordon.Not:
		return 1 + depth(e.X)
	case cordon.Any:
		return 1 + depth(e.X)
	}
	return 1
}

// hostile are inputs of any length that a careless parser is slow on.
var hostile = map[string]func(n int) string{
	"and":      func(n int) string { return repeat("id+eq+''", "+and+id+eq+''", n/13) },
	"list":     func(n int) string { return "id+in+(" + repeat("''", ",''", n/64) + ")" },
	"quotes":   func(n int) string { return "id+eq+" + strings.Repeat("''", n/2) },
	"open":     func(n int) string { return "id+eq+'" + strings.Repeat("''", n/2) },
	"blanks":   func(n int) string { return "id" + strings.Repeat("+", n) + "eq''" },
	"brackets": func(n int) string { return strings.Repeat("(", n) },
	"word":     func(n int) string { return strings.Repeat("a", n) },
	"digits":   func(n int) string { return "rbacGroupId+eq+" + strings.Repeat("1", n) },
	"dashes":   func(n int) string { return "id+eq+a" + strings.Repeat("-", n) },
	"options":  func(n int) string { return "id+eq+''" + strings.Repeat("&a=b", n/4) },
}

// TestLinear holds that the work grows no faster than the input. It counts
// allocations, which are the same on every machine.
func TestLinear(t *testing.T) {
	for name, input := range hostile {
		cost := func(n int) float64 {
			raw := "$filter=" + input(n)
			return testing.AllocsPerRun(5, func() { odata.Parse(raw, odata.Machines) })
		}
		if short, long := cost(4<<10), cost(16000); long > 4.5*short+8 {
			t.Errorf("%s: %v allocations for 4 KiB, %v for nearly 16 KiB", name, short, long)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	inputs := map[string]string{"kibana": "%24count=true&%24filter=id+in+('" + guid + "')+AND+status+eq+'Pending'&%24top=20"}
	for name, input := range hostile {
		inputs[name+"-4K"], inputs[name+"-16K"] = "$filter="+input(4000), "$filter="+input(16000)
	}
	for name, raw := range inputs {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				odata.Parse(raw, odata.MachineActions)
			}
		})
	}
}
