package odata_test

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/odata"
)

func drawPosition(t *rapid.T) cordon.Position {
	return rapid.SliceOfN(rapid.OneOf(
		rapid.Just(cordon.Value(nil)),
		rapid.Map(rapid.String(), func(s string) cordon.Value { return s }),
		rapid.Map(rapid.Int64(), func(i int64) cordon.Value { return i }),
		rapid.Map(rapid.Bool(), func(b bool) cordon.Value { return b }),
		rapid.Map(rapid.Int64Range(-1<<40, 1<<40), func(ticks int64) cordon.Value {
			return time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC).Add(time.Duration(ticks) * cordon.Tick)
		}),
	), 1, 5).Draw(t, "position")
}

// TestNext: the next page asks for the same, from another place on.
func TestNext(t *testing.T) {
	for raw, want := range map[string]string{
		"":                                   "$skiptoken=",
		"$skip=7":                            "$skiptoken=",
		"%24Skip=7&x=y&&$TOP=9":              "x=y&$skiptoken=",
		"$skiptoken=x&$count=true":           "$count=true&$skiptoken=",
		"$filter=id+eq+'a%26b'&$select=id":   "$filter=id+eq+'a%26b'&$select=id&$skiptoken=",
		"$filter=requestor eq 'ä\"<'&$top=9": "$filter=requestor+eq+'%C3%A4%22%3C'&$skiptoken=",
	} {
		if got := odata.Next(raw, cordon.Position{"x"}, 0); !strings.HasPrefix(got, want) || strings.Count(got, "&") != strings.Count(want, "&") {
			t.Errorf("behind %q comes %q, want %q…", raw, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var params []string
		for _, p := range []string{
			"$filter=requestor eq 'x'", "$orderby=id desc,status", "%24select=id,status", "$count=true", "$top=30000", "%24skip=5", "tracking=7",
		} {
			if rapid.Bool().Draw(t, p) {
				params = append(params, p)
			}
		}
		raw := strings.Join(rapid.Permutation(params).Draw(t, "params"), "&")
		want, err := odata.Parse(raw, odata.MachineActions)
		if err != nil {
			t.Fatal(err)
		}
		want.Skip, want.After = 0, drawPosition(t)
		next := odata.Next(raw, want.After, 30000)
		if u, err := url.Parse("https://x/api?" + next); err != nil || u.RawQuery != next || strings.ContainsAny(next, " \"") {
			t.Fatalf("%q is not the query of a URL: %v", next, err)
		}
		got, err := odata.Parse(next, odata.MachineActions)
		want.Top, want.HasTop, want.Rest = cordon.MaxTop, true, 20000
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatalf("%q → %q: %v\n%s", raw, next, err, diff)
		}
		if again := odata.Next(next, want.After, 30000); len(again) != len(next) {
			t.Fatalf("links grow: %q, %q", next, again)
		}
	})
}

// TestForeignToken: a token counts for the query that it came from, as it came.
func TestForeignToken(t *testing.T) {
	const filter, order = "$filter=status+eq+'Failed'", "$orderby=requestor"
	next := odata.Next(filter+"&"+order, cordon.Position{"a", int64(7)}, 0)
	_, token, _ := strings.Cut(next, "$skiptoken=")
	for _, good := range []string{
		next, next + "&$top=5&$select=id&$count=true&$skip=3", "$skiptoken=" + token + "&" + order + "&" + filter,
		"%24skiptoken=" + token + "&%24Filter=%20status%20eq%20%27Failed%27&$OrderBy=requestor", // as another program writes it
	} {
		if q, err := odata.Parse(good, odata.MachineActions); err != nil || len(q.After) != 2 {
			t.Errorf("%q: %+v, %v", good, q.After, err)
		}
	}
	long := base64.RawURLEncoding.EncodeToString(make([]byte, odata.MaxToken))
	for _, bad := range []string{
		filter + "&$skiptoken=" + token, order + "&$skiptoken=" + token, "$skiptoken=" + token,
		"$filter=status+eq+'Pending'&" + order + "&$skiptoken=" + token,
		filter + "&$orderby=requestor+desc&$skiptoken=" + token,
		next + "=", next + "_", next[:len(next)-1], next[:len(next)-8] + "%0A" + next[len(next)-8:], next + "&$skiptoken=" + token,
		filter + "&" + order + "&$skiptoken=", filter + "&" + order + "&$skiptoken=10000", filter + "&" + order + "&$skiptoken=" + long,
	} {
		q, err := odata.Parse(bad, odata.MachineActions)
		if cordon.KindOf(err) != cordon.Invalid || cordon.CodeOf(err) != cordon.CodeMalformedQuery {
			t.Errorf("%q: %+v, %v", bad, q.After, err)
		}
	}
}

// TestLongestQueryHasPages: a query as long as allowed can also be continued,
// however it was spelled.
func TestLongestQueryHasPages(t *testing.T) {
	for _, letter := range []string{"x", "ä", "%41", "\"", "+"} {
		fits := ""
		for n := 1; n < odata.MaxLength; n += 97 {
			raw := "$filter=requestor+eq+'" + strings.Repeat(letter, n) + "'"
			if _, err := odata.Parse(raw, odata.MachineActions); err != nil {
				break
			}
			fits = raw
		}
		next := odata.Next(fits, cordon.Position{strings.Repeat("y", 8000)}, 99999)
		if _, err := odata.Parse(next, odata.MachineActions); err != nil || len(fits) < odata.MaxLength/4 {
			t.Errorf("%q: a query of %d bytes has a second page of %d: %v", letter, len(fits), len(next), err)
		}
	}
}

// FuzzSkipToken: a token is refused, or is the only one for its position.
func FuzzSkipToken(f *testing.F) {
	_, token, _ := strings.Cut(odata.Next("", cordon.Position{nil, "a", int64(-7), true, false, time.Unix(1, 0)}, 0), "=")
	b, _ := base64.RawURLEncoding.DecodeString(token)
	f.Add(b)
	f.Add(append(b[:9:9], 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1))
	f.Add(append(b[:9:9], 2, 0x80, 0))
	f.Add(append(b[:9:9], 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		raw := "$skiptoken=" + base64.RawURLEncoding.EncodeToString(b)
		q, err := odata.Parse(raw, everything)
		if err != nil {
			if cordon.KindOf(err) != cordon.Invalid {
				t.Fatal(err)
			}
			return
		}
		if again := odata.Next("", q.After, 0); again != raw {
			t.Fatalf("%q is %+v, which is %q", raw, q.After, again)
		}
	})
}
