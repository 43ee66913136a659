package cordon

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Sighting says that a machine had an address for some time.
type Sighting struct {
	Address string // as [ParseAddress] returns it
	From    time.Time
	// To is when the machine was last seen with it. It is zero while the machine
	// has it still: then that is when the machine was last seen at all, and no
	// row is written while nothing changes.
	To time.Time
}

// How far sightings go.
const (
	// SightingWindow is how far from a time a machine may have been seen to count
	// as seen at that time (Defender contract 8, findbyip).
	SightingWindow = 15 * time.Minute
	// SightingAge is how old the time that is asked about may be (the same).
	SightingAge = 30 * 24 * time.Hour
	// SightingGap is how long a machine may be silent and still count as having
	// kept an address that it had before and has after it.
	SightingGap  = 24 * time.Hour
	maxSightings = 256 // of one machine; the oldest are forgotten
	maxAddresses = 32  // of one machine at one time
)

// ParseAddress returns the one spelling of an IP address that addresses are
// compared in: without a zone, and IPv4 as such.
func ParseAddress(s string) (string, bool) {
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil {
		return "", false
	}
	return a.WithZone("").Unmap().String(), true
}

// Addresses returns the addresses by which the machine can be told from others,
// each once: those of its interfaces but for loopback, and the one from which
// it reaches the server.
func (f Facts) Addresses() []string {
	candidates := []string{f.LastIP}
	for _, i := range f.Interfaces {
		candidates = append(candidates, i.IP)
	}
	var found []string
	for _, c := range candidates {
		s, ok := ParseAddress(c)
		if !ok || slices.Contains(found, s) || len(found) == maxAddresses {
			continue
		}
		if a := netip.MustParseAddr(s); a.IsLoopback() || a.IsUnspecified() {
			continue
		}
		found = append(found, s)
	}
	return found
}

// NextSightings returns what is known of a machine's addresses when it says at
// a time which ones it has, and was last seen before that at another time.
// Silence of more than [SightingGap] ends what is known: another machine may
// have had the address meanwhile.
func NextSightings(known []Sighting, addresses []string, last, at time.Time) []Sighting {
	silent := at.Sub(last) > SightingGap
	var next []Sighting
	for _, s := range known {
		switch open := s.To.IsZero(); {
		case open && (silent || !slices.Contains(addresses, s.Address)):
			if s.To = last; last.Before(s.From) {
				s.To = s.From
			}
			next = append(next, s)
		case open || at.Sub(s.To) <= SightingAge+SightingWindow:
			next = append(next, s)
		}
	}
	for _, a := range addresses {
		if !slices.ContainsFunc(next, func(s Sighting) bool { return s.Address == a && s.To.IsZero() }) {
			next = slices.DeleteFunc(next, func(s Sighting) bool { return s.Address == a && s.From.Equal(at) })
			next = append(next, Sighting{Address: a, From: at})
		}
	}
	slices.SortStableFunc(next, func(a, b Sighting) int { return b.Until(at).Compare(a.Until(at)) })
	return next[:min(len(next), maxSightings)]
}

// Seen reports whether the machine had the address at some moment between two
// times, if it was last seen at another.
func (s Sighting) Seen(address string, lastSeen, from, to time.Time) bool {
	return s.Address == address && !s.From.After(to) && !s.Until(lastSeen).Before(from)
}

// Until is when a machine that was last seen at a time was last seen with the address.
func (s Sighting) Until(lastSeen time.Time) time.Time {
	if s.To.IsZero() {
		return lastSeen
	}
	return s.To
}
