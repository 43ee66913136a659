package figures

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSample(t *testing.T) {
	var none Sample
	if none.Median() != 0 || none.At(1) != 0 {
		t.Error("an empty sample has a value")
	}
	s := Sample{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0: 1, .25: 2, .5: 3, .75: 4, .99: 5, 1: 5} {
		if got := s.At(q); got != want {
			t.Errorf("At(%v) = %v, want %v", q, got, want)
		}
	}
	if s[0] != 5 {
		t.Error("the sample was sorted in place")
	}
	if got := s.Spread("%.1f"); got != "3.0 [2.0–4.0]" {
		t.Errorf("Spread = %q", got)
	}
}

// A quantile is a value of the sample, and as many lie below it as it says.
func TestQuantiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Sample(rapid.SliceOfN(rapid.Float64Range(-1e9, 1e9), 1, 50).Draw(t, "sample"))
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		v := s.At(q)
		below, upTo := 0, 0
		for _, x := range s {
			if x < v {
				below++
			}
			if x <= v {
				upTo++
			}
		}
		if !slices.Contains(s, v) || float64(below) > q*float64(len(s)) || float64(upTo) < q*float64(len(s)) {
			t.Fatalf("At(%v) of %v is %v", q, s, v)
		}
	})
}

func TestReport(t *testing.T) {
	var out strings.Builder
	r := Report{Out: &out}
	r.Section("one", func() {
		r.Figure("a figure", "%d", 7)
		r.Target("good", true, "≤ 2", "%d", 1)
		r.Target("bad", false, "≤ 2", "%d", 3)
	})
	r.Section("two", func() {
		r.Section("within", func() { Must(1, errors.New("it is not there")) })
		r.Figure("behind", "it goes on")
	})
	if err := r.End(", in no time."); err == nil || err.Error() != "not measured: within" {
		t.Errorf("End: %v", err)
	}
	for _, want := range []string{
		"\n== one\n", "a figure" + strings.Repeat(" ", 41) + "7\n", "target ≤ 2: met\n", "target ≤ 2: MISSED\n",
		"   NOT MEASURED: it is not there\n", "it goes on\n", "\n1 of 2 targets met, in no time.\n   missed: bad: 3, target ≤ 2\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a mistake of the bench's own was taken for something that cannot be measured")
		}
	}()
	r.Section("three", func() { panic("a mistake") })
}
