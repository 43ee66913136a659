package main

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-project/cordon/test/bench/figures"
)

func TestParse(t *testing.T) {
	if s, err := parse("12.5\n0.0\n3e3\n", 3); err != nil || !slices.Equal(s, figures.Sample{12.5, 0, 3000}) {
		t.Errorf("%v, %v", s, err)
	}
	for text, n := range map[string]int{"": 1, "1\n2\n": 1, "1\nx\n": 2, "1\n\n": 2} {
		if s, err := parse(text, n); err == nil {
			t.Errorf("%d of %q are %v", n, text, s)
		}
	}
}

func TestOutcome(t *testing.T) {
	k := task{taken: [states]figures.Sample{{1000, 1000, 1000}, {1004, 1004, 1004}, {1010, 1020, 1030}}}
	ratio, text := k.outcome()
	if ratio != 1.02 || !strings.Contains(text, "agent +0.40 %; restricted +2.00 % = +20 [+10–+30] ns") {
		t.Errorf("%v, %s", ratio, text)
	}
}

func TestShares(t *testing.T) {
	start := map[string]spent{"a": {"a", 100, 1000}, "b": {"b", 5, 50}, "c": {"c", 1, 10}}
	none := map[string]spent{"a": {"a", 110, 1100}, "b": {"b", 6, 60}, "c": {"c", 2, 20}} // a start needs 10 a, 1 b, 1 c
	full := map[string]spent{"a": {"a", 220, 2200}, "b": {"b", 407, 20070}, "c": {"c", 3, 30}}
	all, total := shares(start, none, full, 100)
	if want := []share{{"b", 4, 200}, {"a", 1, 10}}; !slices.Equal(all, want) || total != 210 {
		t.Errorf("%+v, %v, want %+v", all, total, want)
	}
}

func TestInvent(t *testing.T) {
	entries, sizes := invent(1000, rand.NewChaCha8([32]byte{}))
	seen := map[int64]bool{}
	for _, e := range entries {
		seen[e.Size] = true
		if e.Size < 1 || e.Size > 200_000 {
			t.Errorf("size %d", e.Size)
		}
	}
	if len(entries) != 1000 || len(seen) != sizes || entries[0].Digest == entries[1].Digest {
		t.Errorf("%d entries, %d sizes, said %d", len(entries), len(seen), sizes)
	}
}
