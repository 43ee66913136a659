package ratelimit

import (
	"context"
	"net/netip"
	"sync"
)

// Guard limits guesses at secrets. Only wrong ones count: 10 a minute for one
// client from one address, and 100 a minute from one address for whomever. An
// IPv6 address counts as its /64, which is what one subscriber has.
//
// # What an attacker gets
//
// No more answers than that: an attempt is judged again after its secret was
// looked at, and once the limit is used up a right secret is refused in the same
// words as a wrong one. So guesses in parallel do not get ahead of the count.
// The exception is the price of what follows: who guesses from so many addresses
// that there is no room for them is told of a right one, wrong ones being answered
// at the rate of one client. Against that only a long secret helps.
//
// # What an attacker cannot do
//
// He cannot keep others out. From another address nothing that he does is felt;
// a right secret passes there even when he has filled the store (only who has just
// sent a wrong one himself may then have to wait for six seconds). From the
// same address (behind a NAT, say) a client that has shown a right secret before
// is not held up by guesses at others, only by guesses at that very client: for as
// long as they go on, and at most six seconds (an interval of the limit) after.
// One that has not been seen from there since the server started may also be
// held up by guesses at others, for as long as they go on and 0.6 s after.
// One client with an outdated secret uses up its own limit and then no more of
// that of its address.
type Guard struct {
	limiter *Limiter

	mu     sync.Mutex
	proved map[string]bool // guarded by mu; pairs of client and address that have shown a right secret
}

// maxProved bounds the memory for pairs. Only who has a right secret gets in,
// so nobody else can fill it.
const maxProved = 4096

// NewGuard returns a guard over a limiter. Its store should not be that of
// other limits: an attacker may fill it.
func NewGuard(l *Limiter) *Guard {
	return &Guard{limiter: l, proved: make(map[string]bool)}
}

// Try lets attempt look at a secret for client, unless there have been too many
// wrong ones, and counts what it says. Its error means that the attempt could not
// be judged; it is returned as it is, and nothing is counted. If the verdict does
// not allow the attempt, its result must not be told.
func (g *Guard) Try(ctx context.Context, client string, address netip.Addr, attempt func() (right bool, err error)) (Verdict, error) {
	from := subscriber(address)
	pair := ID(client, from)
	buckets := []Bucket{{NameGuess, pair, guesses}}
	if !g.hasProved(pair) {
		buckets = append(buckets, Bucket{NameGuessAddress, ID(from), addressGuesses})
	}
	if v, err := g.limiter.Peek(ctx, buckets...); err != nil || !v.Allowed && !v.Shared {
		return v, err
	}
	right, err := attempt()
	if err != nil {
		return Verdict{}, err
	}
	if !right {
		return g.limiter.Take(ctx, buckets...)
	}
	v, err := g.limiter.Peek(ctx, buckets...)
	if err != nil || !v.Allowed && !v.Shared {
		return v, err
	}
	g.remember(pair)
	return Verdict{Allowed: true, Remaining: v.Remaining, Limit: v.Limit}, nil
}

func (g *Guard) hasProved(pair string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.proved[pair]
}

func (g *Guard) remember(pair string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.proved) >= maxProved && !g.proved[pair] {
		for other := range g.proved { // any one: it only has to make room
			delete(g.proved, other)
			break
		}
	}
	g.proved[pair] = true
}
