package ratelimit_test

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-project/cordon/internal/ratelimit"
)

const honest, other = "0a1b2c3d-4e5f-4061-8273-849506a7b8c9", "11111111-2222-4333-8444-555555555555"

var here, there = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.7")

// login is a guard in a test.
type login struct {
	*ratelimit.Guard
	t      testing.TB
	clock  *clock
	memory *ratelimit.Memory
	looked atomic.Int64 // secrets that were looked at
}

func newLogin(t testing.TB, room int) *login {
	c := newClock()
	l, m := newLimiter(c, room)
	return &login{Guard: ratelimit.NewGuard(l), t: t, clock: c, memory: m}
}

func (l *login) try(client string, from netip.Addr, right bool) ratelimit.Verdict {
	l.t.Helper()
	v, err := l.Try(l.t.Context(), client, from, func() (bool, error) {
		l.looked.Add(1)
		return right, nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return v
}

// attack makes wrong guesses and returns how many of them were answered.
func (l *login) attack(client string, from netip.Addr, guesses int) (answered int) {
	l.t.Helper()
	for range guesses {
		if l.try(client, from, false).Allowed {
			answered++
		}
	}
	return answered
}

func TestGuessesAreLimited(t *testing.T) {
	l := newLogin(t, 1000)
	if n := l.attack(honest, here, 500); n != 10 {
		t.Errorf("%d guesses were answered, want 10", n)
	}
	if n := l.looked.Load(); n != 10 {
		t.Errorf("%d secrets were looked at, want 10", n)
	}
	if v := l.try(honest, here, true); v.Allowed || v.RetryAfter != 6*time.Second {
		t.Errorf("the right guess after too many wrong ones was told %+v", v)
	}
	l.clock.add(6 * time.Second)
	if n := l.attack(honest, here, 500); n != 1 {
		t.Errorf("%d guesses were answered after six seconds, want 1", n)
	}
}

func TestGuessesAtManyClientsAreLimited(t *testing.T) {
	l := newLogin(t, 10_000)
	answered := 0
	for i := range 5000 {
		answered += l.attack(fmt.Sprint("client ", i), here, 1)
	}
	if answered != 100 {
		t.Errorf("%d guesses from one address were answered, want 100", answered)
	}
}

func TestRightSecretsCostNothing(t *testing.T) {
	l := newLogin(t, 1000)
	for range 5000 {
		if !l.try(honest, here, true).Allowed {
			t.Fatal("refused")
		}
	}
	if n := l.memory.Len(); n != 0 {
		t.Errorf("they left %d keys", n)
	}
}

// TestNobodyIsLockedOutFromElsewhere: whatever is done at other addresses, with
// the honest client's own id and with others, even until there is no room left.
func TestNobodyIsLockedOutFromElsewhere(t *testing.T) {
	l := newLogin(t, 50)
	l.attack(honest, here, 100)
	if !l.try(honest, there, true).Allowed {
		t.Fatal("an attack from another address kept a right secret out")
	}
	l.clock.add(time.Hour)
	fresh := netip.MustParseAddr("203.0.113.9")
	for i := range 1000 {
		l.attack(honest, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 20)
		if !l.try(honest, there, true).Allowed || !l.try(other, fresh, true).Allowed {
			t.Fatalf("a right secret was kept out after attacks from %d addresses", i+1)
		}
	}
	if n := l.memory.Len(); n > 50+2 {
		t.Errorf("%d keys in use, there is room for 50", n)
	}
}

// TestSprayedGuessesAreLimitedTogether: when there is no room, wrong secrets of
// all who have none share what one of them would have.
func TestSprayedGuessesAreLimitedTogether(t *testing.T) {
	l := newLogin(t, 0)
	answered := 0
	for i := range 1000 {
		answered += l.attack(honest, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
	}
	if answered != 10 {
		t.Errorf("%d guesses were answered, want 10", answered)
	}
}

func TestBehindOneAddress(t *testing.T) {
	t.Run("guesses at another client", func(t *testing.T) {
		l := newLogin(t, 1000)
		l.attack(other, here, 10_000)
		if !l.try(honest, here, true).Allowed {
			t.Error("one client's wrong secrets used up the address")
		}
	})
	t.Run("guesses at many clients", func(t *testing.T) {
		l := newLogin(t, 1000)
		attack := func() {
			for i := range 500 {
				l.attack(fmt.Sprint("client ", i), here, 1)
			}
		}
		attack()
		v := l.try(honest, here, true)
		if v.Allowed || v.RetryAfter > 600*time.Millisecond {
			t.Fatalf("a client that was never seen here was told %+v", v)
		}
		l.clock.add(v.RetryAfter)
		if !l.try(honest, here, true).Allowed {
			t.Fatal("refused after the wait")
		}
		attack()
		if !l.try(honest, here, true).Allowed {
			t.Error("guesses at others kept out a client that has shown its secret here")
		}
		if v := l.try(other, here, true); v.Allowed {
			t.Errorf("the address is not limited any more: %+v", v)
		}
	})
	t.Run("guesses at a client that was here", func(t *testing.T) {
		l := newLogin(t, 1000)
		l.try(honest, here, true)
		if n := l.attack(honest, here, 500); n != 10 {
			t.Errorf("%d guesses were answered, want 10", n)
		}
		v := l.try(honest, here, true)
		if v.Allowed || v.RetryAfter > 6*time.Second {
			t.Fatalf("%+v", v)
		}
		l.clock.add(v.RetryAfter)
		if !l.try(honest, here, true).Allowed {
			t.Error("refused after the wait")
		}
	})
}

// TestParallelGuesses: all of them are looked at before the first is counted.
// No more are answered all the same, and a right one among them is not found.
func TestParallelGuesses(t *testing.T) {
	l := newLogin(t, 1000)
	const guesses = 200
	var waiting, done sync.WaitGroup
	waiting.Add(guesses)
	var answered atomic.Int64
	for range guesses {
		done.Go(func() {
			v, err := l.Try(t.Context(), honest, here, func() (bool, error) {
				waiting.Done()
				waiting.Wait()
				return false, nil
			})
			if err != nil {
				t.Error(err)
			}
			if v.Allowed {
				answered.Add(1)
			}
		})
	}
	done.Wait()
	if n := answered.Load(); n != 10 {
		t.Errorf("%d guesses were answered, want 10", n)
	}

	l = newLogin(t, 1000)
	v, err := l.Try(t.Context(), honest, here, func() (bool, error) {
		l.attack(honest, here, 10)
		return true, nil
	})
	if err != nil || v.Allowed {
		t.Errorf("a right guess was told %+v, %v after the limit was used up", v, err)
	}
}

func TestWhatCannotBeJudgedIsNotCounted(t *testing.T) {
	l := newLogin(t, 1000)
	broken := errors.New("the store does not answer")
	for range 100 {
		if _, err := l.Try(t.Context(), honest, here, func() (bool, error) { return false, broken }); err != broken {
			t.Fatal(err)
		}
	}
	if l.memory.Len() != 0 {
		t.Error("it was counted")
	}
}

func TestGuardTellsOfABrokenStore(t *testing.T) {
	g := ratelimit.NewGuard(&ratelimit.Limiter{Store: brokenStore{}})
	v, err := g.Try(t.Context(), honest, here, func() (bool, error) { return true, nil })
	if !errors.Is(err, errBroken) || v.Allowed {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestAddressesOfOneSubscriber(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:0:0:1", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"fe80::1%eth0", "fe80::1%eth1", true},
	} {
		l := newLogin(t, 1000)
		l.attack(honest, netip.MustParseAddr(tt.a), 10)
		if same := !l.try(honest, netip.MustParseAddr(tt.b), true).Allowed; same != tt.same {
			t.Errorf("%s and %s count as one: %v", tt.a, tt.b, same)
		}
	}
}

// TestProofsAreBounded uses more pairs than are remembered.
func TestProofsAreBounded(t *testing.T) {
	l := newLogin(t, 1000)
	for i := range 10_000 {
		if !l.try(honest, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), true).Allowed {
			t.Fatal("refused")
		}
	}
	if n := ratelimit.Proved(l.Guard); n != 4096 {
		t.Errorf("%d pairs are remembered, want 4096", n)
	}
}
