package ratelimit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon/internal/ratelimit"
)

type rule = ratelimit.Rule

func TestDefendersLimits(t *testing.T) {
	table, err := ratelimit.NewTable()
	if err != nil {
		t.Fatal(err)
	}
	for api, want := range map[string][]limit{
		"GET machines":                          {minute, hour},
		"GET machines/*":                        {minute, hour},
		"POST machines/*/restrictCodeExecution": {minute, hour},
		"GET machineactions/*/getPackageUri":    {{Burst: 2, Period: time.Minute}, {Burst: 120, Period: time.Hour}},
		"POST machines/*/runLiveResponse":       {{Burst: 10, Period: time.Minute}},
		"POST machines/*/startInvestigation":    {{Burst: 50, Period: time.Hour}},
		"":                                      {minute, hour},
	} {
		if diff := cmp.Diff(want, table.Limits("anybody", api)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", api, diff)
		}
	}
}

func TestRules(t *testing.T) {
	one, two, three, four := limit{Burst: 1, Period: time.Minute}, limit{Burst: 2, Period: time.Minute}, limit{Burst: 3, Period: time.Minute}, limit{Burst: 4, Period: time.Minute}
	table, err := ratelimit.NewTable(
		rule{Limits: []limit{one}},
		rule{Application: "SOAR", Limits: []limit{two, hour}},
		rule{API: "RunLiveResponse", Limits: []limit{three}},
		rule{Application: "soar", API: "cancel", Limits: []limit{four}},
		rule{API: "machines", Limits: []limit{four}},
		rule{API: "getLink", Limits: []limit{two}},
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		application, api string
		want             []limit
	}{
		{"other", "GET machines/*", []limit{one}},
		{"Soar", "GET machines/*", []limit{two, hour}},
		{"other", "GET machines", []limit{four}},
		{"other", "GET machineactions/*/GetLink(index=*)", []limit{two}},
		{"soar", "POST machines/*/runliveresponse", []limit{three}},
		{"soar", "POST machineactions/*/cancel", []limit{four}},
		{"other", "POST machineactions/*/cancel", []limit{one}},
		{"soar", "GET machineactions/*/getPackageUri", []limit{{Burst: 2, Period: time.Minute}, {Burst: 120, Period: time.Hour}}},
	} {
		if diff := cmp.Diff(tt.want, table.Limits(tt.application, tt.api)); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", tt.application, tt.api, diff)
		}
	}
}

func TestBadRules(t *testing.T) {
	good := []limit{minute}
	for want, rules := range map[string][]rule{
		"limits of all applications and all APIs are given twice":             {{Limits: good}, {Limits: good}},
		"limits of application A and API B are given twice":                   {{Application: "a", API: "b", Limits: good}, {Application: "A", API: "B", Limits: good}},
		"limits of application a and all APIs: there are none":                {{Application: "a"}},
		"limits of all applications and API b: there are two per 1m0s":        {{API: "b", Limits: []limit{minute, {Burst: 2, Period: time.Minute}}}},
		"limits of all applications and all APIs: a limit of 0 requests is n": {{Limits: []limit{{Period: time.Minute}}}},
	} {
		if _, err := ratelimit.NewTable(rules...); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error is %v, want one that begins with %q", err, want)
		}
	}
}

// TestWhoseTheBucketsAre: per application, tenant and API, with their case of
// no account where clients vary it.
func TestWhoseTheBucketsAre(t *testing.T) {
	table, err := ratelimit.NewTable()
	if err != nil {
		t.Fatal(err)
	}
	want := []bucket{
		{Name: "api", ID: "t|app|GET machines/*", Limit: minute},
		{Name: "api", ID: "t|app|GET machines/*", Limit: hour},
	}
	if diff := cmp.Diff(want, table.Buckets("t", "App", "GET machines/*")); diff != "" {
		t.Error(diff)
	}
	l, _ := newLimiter(newClock(), 100)
	for _, who := range [][3]string{
		{"t", "app", "GET machines"}, {"u", "app", "GET machines"}, {"t", "other", "GET machines"}, {"t", "app", "GET machineactions"},
	} {
		if n := takeAll(t, l, table.Buckets(who[0], who[1], who[2])); n != 100 {
			t.Errorf("%v was allowed %d, want 100", who, n)
		}
	}
}

func TestIDsDiffer(t *testing.T) {
	part := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a|#]{0,3}`), rapid.StringMatching(`x{63,66}`))
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "parts")
		a, b := rapid.SliceOfN(part, n, n).Draw(t, "a"), rapid.SliceOfN(part, n, n).Draw(t, "b")
		ia, ib := ratelimit.ID(a...), ratelimit.ID(b...)
		if (ia == ib) != cmp.Equal(a, b) {
			t.Fatalf("%q of %q and %q of %q", ia, a, ib, b)
		}
		if most := n*64 + n - 1; len(ia) > most {
			t.Fatalf("%q has %d bytes, most are %d", ia, len(ia), most)
		}
	})
	if ratelimit.ID("a|b", "c") == ratelimit.ID("a", "b|c") {
		t.Error("a part with the separator in it is taken for two")
	}
	if digest := ratelimit.ID("ä"); ratelimit.ID(digest) == digest {
		t.Error("a part that looks like a digest is taken for one")
	}
	if got, want := ratelimit.ID("a", "b c"), "a|b c"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
