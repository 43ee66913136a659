package fanotify

import (
	"crypto/sha256"
	"os"
	"testing"

	"github.com/cordon-project/cordon"
)

// Samples stand for every refusal, however few there are, and say what content it was.
func TestSamplesCountExactly(t *testing.T) {
	confined(t, func(t *testing.T, scope string) {
		r := newRig(t, scope)
		good, c := r.program("good")
		evil, _ := r.program("evil")
		other, _ := r.program("other")
		r.apply(cordon.ModeEnforce, c)
		for range 20 {
			r.refused(evil)
			r.refused(other)
			r.runs(good)
		}
		digest := func(path string) cordon.Digest {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return sha256.Sum256(b)
		}
		want := map[string]cordon.Digest{evil: digest(evil), other: digest(other)}
		counts := map[string]uint64{}
		for counts[evil]+counts[other] < 40 {
			got := <-r.Refusals()
			if counts[got.Path] += got.Count; got.Count == 0 || got.Digest != want[got.Path] {
				t.Fatalf("sample %+v", got)
			}
		}
		if counts[evil] != 20 || counts[other] != 20 || r.Stats().Refused != 40 {
			t.Errorf("%v of %+v", counts, r.Stats())
		}
	})
}

func TestSpots(t *testing.T) {
	s := spots{waiting: map[spot]uint64{}}
	to := make(chan sighting, 2)
	a, b, c := spot{id: cordon.FileID{Ino: 1}}, spot{id: cordon.FileID{Ino: 2}}, spot{id: cordon.FileID{Ino: 3}}
	for i, step := range []struct {
		spot spot
		open bool
	}{{a, true}, {a, false}, {a, false}, {b, true}, {c, false}, {b, false}} {
		if open := s.add(to, sighting{spot: step.spot}); open != step.open {
			t.Errorf("step %d: %v", i, open)
		}
	}
	if n := s.take((<-to).spot); n != 3 {
		t.Errorf("a stands for %d", n)
	}
	if !s.add(to, sighting{spot: a}) || s.take((<-to).spot) != 2 || s.take((<-to).spot) != 1 || len(s.waiting) != 0 {
		t.Errorf("left: %v", s.waiting)
	}
	unknown := sighting{}
	if !s.add(to, unknown) || !s.add(to, unknown) || s.add(to, unknown) || s.take(spot{}) != 1 || s.take(spot{}) != 1 || len(s.waiting) != 0 {
		t.Error("what is not known was joined")
	}
}
