package trust

import (
	"context"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// rests is how many times as long as it had a processor each worker rests, so that
// all together take half of one at most. The agent's weight is that of
// an order (CPUWeight=), and it counts for whatever the agent does: between control
// groups the kernel does not look at the nice value or the policy of a thread.
const rests = 3

// stretch is how long a worker has a processor at least before it rests; with
// less, waking up would be much of the work.
const stretch = 5 * time.Millisecond

// pace is how fast the work goes: at leisure, unless somebody waits for it. The
// zero pace is ready for use.
type pace struct {
	used  func() time.Duration                 // processor time of this thread; nil: ask the kernel
	after func(time.Duration) <-chan time.Time // nil: time.After

	mu      sync.Mutex
	waiting int           // how many wait
	hurry   chan struct{} // closed while somebody does; nil before anybody asked
}

// wait has the work done as fast as can be until done is called.
func (p *pace) wait() (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting++; p.waiting == 1 {
		close(p.signal())
	}
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.waiting--; p.waiting == 0 {
			p.hurry = nil
		}
	})
}

// signal is called with mu held.
func (p *pace) signal() chan struct{} {
	if p.hurry == nil {
		p.hurry = make(chan struct{})
	}
	return p.hurry
}

// worker makes the caller's goroutine a worker until it calls end: after every small
// piece of work it calls pause, which returns when it is time for the next one.
func (p *pace) worker(ctx context.Context) (pause, end func()) {
	used, after := p.used, p.after
	if used == nil {
		used, after = threadTime, time.After
	}
	runtime.LockOSThread() // whose time it is
	before := used()
	pause = func() {
		worked := used() - before
		if worked < stretch {
			return
		}
		p.mu.Lock()
		hurry := p.signal()
		p.mu.Unlock()
		select {
		case <-hurry: // first, as an order does not wait for a timer to be made
		default:
			select {
			case <-hurry:
			case <-ctx.Done():
			case <-after(rests * worked):
			}
		}
		before = used()
	}
	return pause, runtime.UnlockOSThread
}

// threadTime is the processor time that this thread has had (clock_gettime(2)). A
// worker that others keep waiting has no need to rest for that.
func threadTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0 // as no Linux does; then nothing rests
	}
	return time.Duration(t.Nano())
}
