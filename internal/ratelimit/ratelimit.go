// Package ratelimit decides how often something may be done: requests of an
// application to an API, and guesses at a secret.
//
// # What it owns
//
// The rule itself, a pure function of a clock, a limit and one point in time per
// bucket ([Limit.Decide]); the [Limiter], which applies several limits to one
// request so that all of them allow it or none is charged; [Memory], which keeps
// the points in time, and its snapshots; the names, the key formats and the
// values of the limits that there are ([Table], [Guard]). Status codes, headers
// and configuration files belong to others.
//
// # The rule
//
// It is the generic cell rate algorithm. A bucket is one point in time, its
// theoretical arrival time (TAT): when the bucket will be full again. A request
// moves it on by the [Limit.Interval], and is refused if that would put it
// further than burst intervals ahead of now. So in any span of time t at most
// burst + t/interval requests are allowed: after a rest the burst at once, and
// one each interval for ever. There are no windows at whose edges twice the limit
// could be had at once, and how long a refused request has to wait is exact.
//
// # What it promises
//
// Decisions are exact under concurrency: there is one order of all requests, in
// which the clock is read too. A clock that goes backwards never gives more than
// the limit and never holds up longer than it: a TAT that is further ahead than
// the limit can put it is brought back. Memory is bounded, whatever keys others
// make up ([Memory] says what happens to the keys that do not fit). A stop in good
// order forgets nothing; what a crash can make it forget is told at
// [Memory.Export].
//
// The package starts no goroutine and logs nothing. Its types are safe for
// concurrent use.
package ratelimit

import (
	"fmt"
	"time"
)

// Limit allows Burst requests at once after a rest and, in the long run, Burst
// per Period.
type Limit struct {
	Burst  int
	Period time.Duration
}

// The bounds of a [Limit]. Nothing is remembered for longer than MaxPeriod.
const (
	MaxBurst  = 1_000_000_000
	MinPeriod = time.Second
	MaxPeriod = 24 * time.Hour
)

// Check returns an error that says what is wrong with the limit, if anything is.
// All other functions of this package expect limits that have passed it.
func (l Limit) Check() error {
	switch {
	case l.Burst < 1 || l.Burst > MaxBurst:
		return fmt.Errorf("a limit of %d requests is not between 1 and %d", l.Burst, MaxBurst)
	case l.Period < MinPeriod || l.Period > MaxPeriod:
		return fmt.Errorf("a limit per %s is not per %s to %s", l.Period, MinPeriod, MaxPeriod)
	}
	return nil
}

// Interval is the time in which the bucket gets room for one more request. What
// does not divide evenly is rounded up to a nanosecond, so that a limit errs on
// the strict side or not at all.
func (l Limit) Interval() time.Duration {
	n := time.Duration(l.Burst)
	return (l.Period + n - 1) / n
}

// window is how far ahead of now a TAT can be: the bucket is empty then.
func (l Limit) window() time.Duration { return l.Interval() * time.Duration(l.Burst) }

// String returns the limit as Defender's refusals name it: 100 per 00:01:00.
func (l Limit) String() string {
	s := int64(l.Period / time.Second)
	return fmt.Sprintf("%d per %02d:%02d:%02d", l.Burst, s/3600, s/60%60, s%60)
}

// Decision is what becomes of one request to one bucket.
type Decision struct {
	Allowed    bool
	RetryAfter time.Duration // until one request is allowed, to the nanosecond; 0 if this one is
	Remaining  int           // requests that would be allowed at once after this one
	TAT        time.Time     // of the bucket from now on, also after a refusal
}

// Decide judges one request at now to a bucket with the given TAT. The zero time
// is the TAT of a bucket that was never used.
func (l Limit) Decide(now, tat time.Time) Decision {
	// debt is the time until the bucket is full. More than the window can only
	// be there if the clock went back. Then the bucket counts as empty: it cannot
	// have been worse, and from here on it fills again.
	debt := min(max(tat.Sub(now), 0), l.window())
	after := debt + l.Interval()
	if over := after - l.window(); over > 0 {
		return Decision{RetryAfter: over, TAT: now.Add(debt)}
	}
	return Decision{Allowed: true, Remaining: int((l.window() - after) / l.Interval()), TAT: now.Add(after)}
}

// WholeSeconds rounds a wait up to whole seconds, at least one, which is how
// Retry-After is told (RFC 9110, section 10.2.3).
func WholeSeconds(wait time.Duration) time.Duration {
	return max((wait + time.Second - 1).Truncate(time.Second), time.Second)
}
