package simulate

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Mix is the weights of the kinds of system, as in "windows=70,linux=20,macos=10".
// A kind that is not named has none.
type Mix map[string]float64

// UnmarshalText reads a mix.
func (m *Mix) UnmarshalText(text []byte) error {
	mix := make(Mix)
	total := 0.0
	for part := range strings.SplitSeq(string(text), ",") {
		kind, weight, _ := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := mix[kind]; twice || systems[kind] == nil {
			return fmt.Errorf("%q is not of the form windows=70,linux=20,macos=10", text)
		}
		w, err := strconv.ParseFloat(weight, 64)
		if err != nil || !(w >= 0 && w <= 1e6) {
			return fmt.Errorf("%q is not of the form windows=70,linux=20,macos=10", text)
		}
		mix[kind] = w
		total += w
	}
	if total == 0 {
		return fmt.Errorf("%q has no weight above zero", text)
	}
	*m = mix
	return nil
}

// Share is a part of a whole, from 0 to 1; in text "10%" or "0.1".
type Share float64

// UnmarshalText reads a share.
func (s *Share) UnmarshalText(text []byte) error {
	number, percent := strings.CutSuffix(string(text), "%")
	f, err := strconv.ParseFloat(number, 64)
	if percent {
		f /= 100
	}
	if err != nil || !(f >= 0 && f <= 1) {
		return fmt.Errorf("%q is not a share from 0%% to 100%%", text)
	}
	*s = Share(f)
	return nil
}

// Span is a range of durations; in text "200ms", or "100ms-2s".
type Span struct{ From, To time.Duration }

// maxSpan keeps sums of durations far from their end.
const maxSpan = math.MaxInt64 / 4

// UnmarshalText reads a span.
func (s *Span) UnmarshalText(text []byte) error {
	from, to, isRange := strings.Cut(string(text), "-")
	if !isRange {
		to = from
	}
	f, err1 := time.ParseDuration(from)
	t, err2 := time.ParseDuration(to)
	if err1 != nil || err2 != nil || f < 0 || t < f || t > maxSpan {
		return fmt.Errorf("%q is not of the form 200ms or 100ms-2s", text)
	}
	*s = Span{f, t}
	return nil
}
