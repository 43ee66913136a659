package ratelimit

import (
	"context"
	"math"
	"time"
)

// Bucket is one of the limits that a request has to keep to, and whose it is.
type Bucket struct {
	Name  string // of the limit; see the constants
	ID    string // whose bucket it is, as made by [ID]
	Limit Limit
}

// Key is what the TAT of a bucket is kept under. The burst is no part of it, so
// that a limit can be changed without forgetting who has used it up.
type Key struct {
	Name   string
	Period time.Duration
	ID     string // "" for the bucket that is shared by those for whom there is no room
}

// State is what is known of one key.
type State struct {
	TAT    time.Time // the zero time if it was never used
	Shared bool      // the TAT is not the key's own: it is shared with others, and never the earlier for it
}

// Store keeps the TATs of buckets. All methods are safe for concurrent use.
type Store interface {
	// Update hands the time and the states of keys to decide, which sets the TATs
	// in place, and keeps those that were changed. It is atomic: two updates that
	// have a key in common happen one after the other, and the time does not go
	// back from the one to the other unless the clock itself does. No two keys of
	// one update are of the same name and period. A store may call decide more
	// than once. An error means that nothing was kept.
	Update(ctx context.Context, keys []Key, decide func(now time.Time, states []State)) error
}

// Verdict is what becomes of one request to several buckets.
type Verdict struct {
	Allowed    bool
	RetryAfter time.Duration // until all buckets allow one request, to the nanosecond; 0 if they do
	Remaining  int           // requests that all buckets would allow at once after this one
	Limit      Limit         // of the bucket that sets RetryAfter, or else Remaining
	// Shared says of a refusal that no bucket of the request's own was behind it,
	// only the lack of room for one (see [Memory]).
	Shared bool
}

// Limiter applies limits.
type Limiter struct{ Store Store }

// Take judges one request to all of the buckets, no two of which may be of the
// same name and period. Either all allow it, and it is charged to each, or it is
// refused and charged to none. The error is that of the store.
func (l *Limiter) Take(ctx context.Context, buckets ...Bucket) (Verdict, error) {
	return l.judge(ctx, buckets, true)
}

// Peek returns what Take would return, and charges nothing.
func (l *Limiter) Peek(ctx context.Context, buckets ...Bucket) (Verdict, error) {
	return l.judge(ctx, buckets, false)
}

func (l *Limiter) judge(ctx context.Context, buckets []Bucket, charge bool) (v Verdict, err error) {
	keys := make([]Key, len(buckets))
	for i, b := range buckets {
		keys[i] = Key{b.Name, b.Limit.Period, b.ID}
	}
	err = l.Store.Update(ctx, keys, func(now time.Time, states []State) {
		v = Verdict{Allowed: true, Remaining: math.MaxInt}
		decisions := make([]Decision, len(buckets))
		for i, b := range buckets {
			decisions[i] = b.Limit.Decide(now, states[i].TAT)
			v = v.and(decisions[i], b.Limit, states[i].Shared)
		}
		for i, d := range decisions {
			// The TAT of a refusal is kept even when nothing is charged: it only
			// differs after the clock has gone back, and must not do so for ever.
			if !d.Allowed || v.Allowed && charge {
				states[i].TAT = d.TAT
			}
		}
	})
	if err != nil {
		return Verdict{}, err
	}
	return v, nil
}

// and adds the decision of one more bucket.
func (v Verdict) and(d Decision, l Limit, shared bool) Verdict {
	switch {
	case d.Allowed && v.Allowed && d.Remaining < v.Remaining:
		v.Remaining, v.Limit = d.Remaining, l
	case !d.Allowed:
		v.Shared = shared && (v.Allowed || v.Shared)
		v.Allowed, v.Remaining = false, 0
		if d.RetryAfter > v.RetryAfter {
			v.RetryAfter, v.Limit = d.RetryAfter, l
		}
	}
	return v
}
