package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/testkit/memnet"
	"github.com/cordon-project/cordon/internal/wire"
	"github.com/cordon-project/cordon/test/lab"
)

// online is an agent that runs against a server.
type online struct {
	*Agent
	t      *testing.T
	server *lab.Server
	kernel *kernel
	cfg    Config
	id     cordon.MachineID
	ended  chan error
	stop   func()
}

// bootClock is a clock that starts now, in the time of a bubble if there is one.
func bootClock() func() cordon.BootTime {
	start := time.Now()
	return func() cordon.BootTime { return cordon.BootTime{Boot: "b1", At: time.Since(start)} }
}

// connect makes an agent that is not enrolled, and runs it.
func connect(t *testing.T, server *lab.Server, with ...func(*Config)) *online {
	t.Helper()
	dir := t.TempDir()
	o := &online{t: t, server: server, kernel: &kernel{t: t, dir: dir, mode: cordon.ModeOff}}
	o.cfg = Config{
		Server: server.URL, CAFile: server.CAFile, EnrollToken: lab.Token, DataDir: dir, Log: lab.Logger(t), Now: time.Now, Boot: bootClock(),
		Facts: func() (cordon.Facts, error) {
			return cordon.Facts{DNSName: "web.example.com", OSPlatform: "Debian"}, nil
		},
	}
	for _, w := range with {
		w(&o.cfg)
	}
	o.start()
	t.Cleanup(func() {
		o.stop()
		_ = o.Close() // it may be closed already
	})
	return o
}

func (o *online) start() {
	o.t.Helper()
	var err error
	if o.Agent, err = Open(o.cfg); err != nil {
		o.t.Fatal(err)
	}
	o.Use(o.kernel)
	if err := o.restore(o.t.Context()); err != nil {
		o.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	o.ended = make(chan error, 1)
	go func(a *Agent, ended chan<- error) { ended <- a.Run(ctx) }(o.Agent, o.ended)
	o.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-o.ended; err != nil {
			o.t.Errorf("the agent ended with %v", err)
		}
	})
}

// restart stops the agent and starts it again.
func (o *online) restart() {
	o.t.Helper()
	o.stop()
	if err := o.Close(); err != nil {
		o.t.Fatal(err)
	}
	o.start()
}

// enrolled waits until the machine is enrolled and the server has heard its first words.
func (o *online) enrolled() cordon.MachineID {
	o.t.Helper()
	o.server.Bell.Await(o.t, "the agent is enrolled and has spoken", func() bool {
		o.id = o.Status().Machine
		if o.id == "" {
			return false
		}
		m, err := o.server.Store.Machine(o.t.Context(), o.id)
		return err == nil && m.Observed.Enforcer != ""
	})
	return o.id
}

// does requests an action and waits until it has succeeded.
func (o *online) does(typ cordon.ActionType) cordon.Action {
	o.t.Helper()
	return o.server.Await(o.server.Request(o.id, typ).ID, cordon.Succeeded)
}

// inBubble runs a test on a network in memory, where waiting takes no time.
func inBubble(t *testing.T, opts lab.Options, test func(*testing.T, *memnet.Network, *lab.Server)) {
	t.Helper()
	transport := http.DefaultTransport.(*http.Transport)
	dial := transport.DialContext
	defer func() { transport.DialContext = dial }()
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		transport.DialContext = network.DialContext
		opts.Network = network
		server := lab.Start(t, opts)
		server.Bell.Patience = 24 * time.Hour
		test(t, network, server)
	})
}

func TestEndToEnd(t *testing.T) {
	server := lab.Start(t, lab.Options{})
	o := connect(t, server)
	id := o.enrolled()
	restrict, release := o.does(cordon.RestrictCodeExecution), cordon.Action{}
	if o.kernel.inMode() != cordon.ModeEnforce {
		t.Errorf("in mode %s", o.kernel.inMode())
	}
	release = o.does(cordon.UnrestrictCodeExecution)
	if o.kernel.inMode() != cordon.ModeOff {
		t.Errorf("in mode %s", o.kernel.inMode())
	}
	if s := o.Status(); s.Transport != "websocket" || s.LastError != "" || s.Tenant != lab.Tenant || s.Server != server.URL {
		t.Errorf("status: %+v", s)
	}
	m, err := server.Store.Machine(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if m.Facts.DNSName != "web.example.com" || m.Facts.LastIP != "127.0.0.1" || m.DeviceID != cordon.DeviceIDOfKey(m.Key) || cordon.IDOfKey(m.Key) != id {
		t.Errorf("machine: %+v", m)
	}
	if m.Observed.Generation != 2 || m.Observed.Mode != cordon.ModeOff || m.Generation != 2 {
		t.Errorf("observed: %+v", m.Observed)
	}
	// The evidence verifies with nothing but the two public keys.
	for _, a := range []cordon.Action{restrict, release} {
		var states []string
		for _, e := range server.Store.AuditLog() {
			if e.Action != a.ID {
				continue
			}
			switch e.Kind {
			case cordon.AuditDelivered:
				order, err := seal.OpenOrder(e.Evidence, server.OrderKey.Public().(ed25519.PublicKey))
				if err != nil || order.Action != a.ID || order.Machine != id || string(order.Type) != string(a.Type) {
					t.Errorf("order %+v, %v", order, err)
				}
			case cordon.AuditReport:
				r, err := seal.OpenReport(e.Evidence, m.Key)
				if err != nil || r.Action != a.ID || r.Machine != id || r.Generation != a.Generation {
					t.Errorf("report %+v, %v", r, err)
				}
				states = append(states, string(r.State))
			}
		}
		if d := cmp.Diff([]string{"Succeeded"}, states); d != "" {
			t.Errorf("reports (-want +got):\n%s", d)
		}
	}
}

func TestStopLeavesNothing(t *testing.T) {
	// The bubble holds that every goroutine has ended.
	inBubble(t, lab.Options{}, func(t *testing.T, _ *memnet.Network, server *lab.Server) {
		o := connect(t, server)
		o.enrolled()
		o.kernel.holdNext()
		server.Request(o.id, cordon.RestrictCodeExecution)
		o.kernel.awaitCalls(1)
		started := time.Now()
		o.stop()
		if took := time.Since(started); took > 0 {
			t.Errorf("it took %s to stop", took)
		}
		if s := o.disk(); s.Generation != 1 || s.Outcome != "" {
			t.Errorf("on disk: %+v", s)
		}
		o.kernel.mu.Lock()
		o.kernel.hold = nil
		o.kernel.mu.Unlock()
		o.restart()
		for _, a := range server.Evidence(o.id) {
			t.Log(a)
		}
		server.Await("00000000-0000-4000-8000-000000000001", cordon.Succeeded)
	})
}

func (o *online) disk() cordon.Standing { return readStanding(o.t, o.cfg.DataDir) }

// proxy stands before the server and lets upgrades through or does not.
type proxy struct {
	block atomic.Pointer[http.HandlerFunc] // answers upgrades; nil: they pass
	polls atomic.Int32
}

func (p *proxy) front(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if block := p.block.Load(); block != nil && r.Header.Get("Upgrade") != "" {
			(*block)(w, r)
			return
		}
		if r.URL.Path == wire.SyncPath {
			p.polls.Add(1)
		}
		next.ServeHTTP(w, r)
	})
}

// Where upgrades do not get through, whatever the way in which they do not,
// orders come by long poll; and the WebSocket comes back when it can.
func TestFallbackToLongPoll(t *testing.T) {
	for name, block := range map[string]http.HandlerFunc{
		"a page says no": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "<h1>Forbidden by policy</h1>", http.StatusForbidden)
		},
		"JSON says no": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"error":"websockets are not allowed"}`) // the agent sees it, or asks again
		},
		"it answers as if nobody had asked": func(http.ResponseWriter, *http.Request) {},
		"it hangs up":                       func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"it accepts and swallows everything": func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, websocket.NetConn(context.Background(), ws, websocket.MessageText)) // until the agent gives up
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := new(proxy)
			p.block.Store(&block)
			inBubble(t, lab.Options{Front: p.front}, func(t *testing.T, _ *memnet.Network, server *lab.Server) {
				o := connect(t, server)
				o.enrolled()
				began := time.Now()
				o.does(cordon.RestrictCodeExecution)
				if took := time.Since(began); took > 0 || o.kernel.inMode() != cordon.ModeEnforce {
					t.Errorf("restricted after %s, mode %s", took, o.kernel.inMode())
				}
				if s := o.Status(); s.Transport != "sync" {
					t.Errorf("status: %+v", s)
				}
				// An idle machine polls about once in MaxWait.
				before, from := p.polls.Load(), time.Now()
				time.Sleep(time.Hour)
				if n, most := int(p.polls.Load()-before), int(time.Since(from)/wire.MaxWait)+30; n > most {
					t.Errorf("%d polls in an hour", n)
				}
				p.block.Store(nil)
				time.Sleep(wsRetry + 2*wire.MaxWait)
				synctest.Wait()
				if s := o.Status(); s.Transport != "websocket" || s.LastError != "" {
					t.Errorf("status after upgrades pass: %+v", s)
				}
				o.does(cordon.UnrestrictCodeExecution)
			})
		})
	}
}

func TestReconnect(t *testing.T) {
	inBubble(t, lab.Options{}, func(t *testing.T, network *memnet.Network, server *lab.Server) {
		o := connect(t, server)
		o.enrolled()
		for range 5 {
			network.Cut()
			o.does(cordon.RestrictCodeExecution) // created while nobody is connected, or just before
		}
		network.Down(true)
		a := server.Request(o.id, cordon.UnrestrictCodeExecution)
		time.Sleep(6 * time.Hour)
		if s := o.Status(); s.Transport != "" || !strings.Contains(s.LastError, "connection refused") {
			t.Errorf("status: %+v", s)
		}
		network.Down(false)
		began := time.Now()
		server.Await(a.ID, cordon.Succeeded)
		if took := time.Since(began); took > lastCeiling {
			t.Errorf("came back after %s", took)
		}
	})
}

// The delays between tries are random below a ceiling that doubles up to five minutes.
func TestBackoff(t *testing.T) {
	var tries []time.Time
	var mu sync.Mutex
	inBubble(t, lab.Options{Front: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			tries = append(tries, time.Now())
			mu.Unlock()
			http.Error(w, "bad gateway", http.StatusBadGateway)
		})
	}}, func(t *testing.T, _ *memnet.Network, server *lab.Server) {
		o := connect(t, server)
		time.Sleep(24 * time.Hour)
		o.stop()
		mu.Lock()
		defer mu.Unlock()
		// 24 h of delays that are 150 s on average are about 576.
		if n := len(tries); n < 400 || n > 800 {
			t.Errorf("%d tries in a day", n)
		}
		longest := time.Duration(0)
		for i := 1; i < len(tries); i++ {
			wait := tries[i].Sub(tries[i-1])
			if ceiling := min(firstCeiling<<min(i-1, 20), lastCeiling); wait > ceiling {
				t.Errorf("wait %d took %s, above %s", i, wait, ceiling)
			}
			longest = max(longest, wait)
		}
		if longest < lastCeiling/2 {
			t.Errorf("the longest wait was %s", longest)
		}
	})
}

// A network that loses everything without a word is noticed.
func TestDeadConnectionIsNoticed(t *testing.T) {
	inBubble(t, lab.Options{}, func(t *testing.T, network *memnet.Network, server *lab.Server) {
		o := connect(t, server)
		o.enrolled()
		network.Silence(true)
		a := server.Request(o.id, cordon.RestrictCodeExecution)
		time.Sleep(3 * wire.PingEvery)
		if s := o.Status(); s.Transport != "" {
			t.Errorf("status: %+v", s)
		}
		network.Silence(false)
		server.Await(a.ID, cordon.Succeeded)
	})
}

// Applying an order may take longer than any timeout of the connection.
func TestSlowOrderKeepsTheConnection(t *testing.T) {
	for _, blocked := range []bool{false, true} {
		t.Run(fmt.Sprint("upgrades blocked: ", blocked), func(t *testing.T) {
			p := new(proxy)
			if blocked {
				block := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
				p.block.Store(&block)
			}
			inBubble(t, lab.Options{Front: p.front}, func(t *testing.T, _ *memnet.Network, server *lab.Server) {
				sweep, stop := context.WithCancel(t.Context())
				defer stop()
				go server.API.Sweep(sweep, wire.PingEvery)
				o := connect(t, server)
				o.enrolled()
				synctest.Wait()
				since := o.Status().Since
				release := o.kernel.holdNext()
				began := time.Now()
				time.AfterFunc(time.Hour, release)
				a := server.Request(o.id, cordon.RestrictCodeExecution)
				server.Await(a.ID, cordon.InProgress)
				if took := time.Since(began); took != noticeable {
					t.Errorf("in progress after %s", took)
				}
				server.Await(a.ID, cordon.Succeeded)
				if took := time.Since(began); took != time.Hour {
					t.Errorf("succeeded after %s", took)
				}
				if s := o.Status(); !blocked && !s.Since.Equal(since) || s.LastError != "" {
					t.Errorf("the connection did not hold: %+v", s)
				}
				if n := len(o.kernel.calls()); n != 1 {
					t.Errorf("switched %d times", n)
				}
			})
		})
	}
}

// An order that was begun is finished, and reported, though the connection that
// brought it breaks.
func TestConnectionBreaksWhileApplying(t *testing.T) {
	inBubble(t, lab.Options{}, func(t *testing.T, network *memnet.Network, server *lab.Server) {
		o := connect(t, server)
		o.enrolled()
		release := o.kernel.holdNext()
		a := server.Request(o.id, cordon.RestrictCodeExecution)
		o.kernel.awaitCalls(1)
		network.Cut()
		time.AfterFunc(10*time.Minute, release)
		server.Await(a.ID, cordon.Succeeded)
		if n := len(o.kernel.calls()); n != 1 {
			t.Errorf("switched %d times", n)
		}
	})
}

// An outcome is told although the order expired meanwhile, so that nobody asks
// for it any more.
func TestOutcomeAfterExpiry(t *testing.T) {
	inBubble(t, lab.Options{}, func(t *testing.T, network *memnet.Network, server *lab.Server) {
		server.Service.TTL = 10 * time.Second
		o := connect(t, server)
		o.enrolled()
		release := o.kernel.holdNext()
		a := server.Request(o.id, cordon.RestrictCodeExecution)
		o.kernel.awaitCalls(1)
		network.Cut()
		time.AfterFunc(20*time.Second, release)
		server.Await(a.ID, cordon.Succeeded)
	})
}

// A report that is lost with its connection is told again, also by the next process.
func TestReportIsLost(t *testing.T) {
	for _, restart := range []bool{false, true} {
		inBubble(t, lab.Options{}, func(t *testing.T, network *memnet.Network, server *lab.Server) {
			o := connect(t, server)
			o.enrolled()
			release := o.kernel.holdNext()
			a := server.Request(o.id, cordon.RestrictCodeExecution)
			o.kernel.awaitCalls(1)
			network.Silence(true)
			release()
			o.kernel.bell.Await(t, "it is in force", func() bool { return o.kernel.inMode() == cordon.ModeEnforce })
			synctest.Wait()
			if n := o.Status().Unsettled; n != 1 || server.Action(a.ID).Status != cordon.Pending {
				t.Fatalf("%d unsettled, the action is %s", n, server.Action(a.ID).Status)
			}
			if restart {
				o.restart()
			}
			network.Silence(false)
			server.Await(a.ID, cordon.Succeeded)
			synctest.Wait()
			if n := o.Status().Unsettled; n != 0 {
				t.Errorf("%d unsettled", n)
			}
		})
	}
}

// Nothing depends on a nudge.
func TestLostNudge(t *testing.T) {
	inBubble(t, lab.Options{}, func(t *testing.T, _ *memnet.Network, server *lab.Server) {
		o := connect(t, server)
		o.enrolled()
		server.Service.Nudge = func(cordon.MachineID) {}
		began := time.Now()
		o.does(cordon.RestrictCodeExecution)
		if took := time.Since(began); took > wire.SyncEvery {
			t.Errorf("delivered after %s", took)
		}
	})
}

// A restriction that is lost is told at once, not with the next question.
func TestLostRestrictionIsTold(t *testing.T) {
	inBubble(t, lab.Options{}, func(t *testing.T, _ *memnet.Network, server *lab.Server) {
		o := connect(t, server)
		o.enrolled()
		o.does(cordon.RestrictCodeExecution)
		time.Sleep(wire.SyncEvery + wire.SyncEvery/2) // until long after all that was to be said
		o.kernel.lose("somebody let go")
		began := time.Now()
		server.Bell.Await(t, "the server knows", func() bool {
			m, err := server.Store.Machine(t.Context(), o.id)
			return err == nil && m.Observed.Problem == "somebody let go" && !m.Observed.InForce
		})
		if took := time.Since(began); took > 2*wire.TellEvery {
			t.Errorf("told after %s", took)
		}
	})
}

// The store of the server fails now and then, before or after it has written.
// Nothing is lost and nothing done twice.
func TestServerFails(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := range int32(12) {
			var left atomic.Int32
			left.Store(-1)
			fault := func(method string, done bool) error {
				if done == after && method != "CreateAction" && left.Add(-1) == 0 {
					return errors.New("disk on fire")
				}
				return nil
			}
			inBubble(t, lab.Options{Fault: fault}, func(t *testing.T, _ *memnet.Network, server *lab.Server) {
				o := connect(t, server)
				o.enrolled()
				synctest.Wait()
				left.Store(n + 1)
				server.Request(o.id, cordon.RestrictCodeExecution)
				server.Request(o.id, cordon.UnrestrictCodeExecution)
				server.Await("00000000-0000-4000-8000-000000000001", cordon.Succeeded)
				server.Await("00000000-0000-4000-8000-000000000002", cordon.Succeeded)
				var modes []cordon.Mode
				for _, s := range o.kernel.calls() {
					modes = append(modes, s.mode)
				}
				if d := cmp.Diff([]cordon.Mode{cordon.ModeEnforce, cordon.ModeOff}, modes); d != "" {
					t.Errorf("switched (-want +got):\n%s", d)
				}
			})
		}
	}
}

// Clocks that are days apart, either way, at enrolment or later.
func TestClocksDiffer(t *testing.T) {
	for _, off := range []time.Duration{-100 * time.Hour, 100 * time.Hour} {
		for _, blocked := range []bool{false, true} {
			t.Run(fmt.Sprint(off, blocked), func(t *testing.T) {
				p := new(proxy)
				if blocked {
					block := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
					p.block.Store(&block)
				}
				inBubble(t, lab.Options{Front: p.front}, func(t *testing.T, network *memnet.Network, server *lab.Server) {
					var own atomic.Int64
					own.Store(int64(off))
					o := connect(t, server, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(time.Duration(own.Load())) } })
					o.enrolled()
					o.does(cordon.RestrictCodeExecution)
					synctest.Wait()
					m, err := server.Store.Machine(t.Context(), o.id)
					if err != nil || m.Observed.ClockOffset != -off.Milliseconds() {
						t.Errorf("offset %d ms, %v", m.Observed.ClockOffset, err)
					}
					own.Store(0) // somebody set it
					network.Cut()
					o.does(cordon.UnrestrictCodeExecution)
					synctest.Wait()
					m, err = server.Store.Machine(t.Context(), o.id)
					if err != nil || m.Observed.ClockOffset != 0 {
						t.Errorf("offset %d ms, %v", m.Observed.ClockOffset, err)
					}
				})
			})
		}
	}
}

// A server without the pinned order key, such as one that somebody took over,
// cannot move the machine, and the machine does not run hot over it.
func TestServerWithAnotherOrderKey(t *testing.T) {
	for _, blocked := range []bool{false, true} {
		p := new(proxy)
		if blocked {
			block := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
			p.block.Store(&block)
		}
		inBubble(t, lab.Options{Front: p.front}, func(t *testing.T, _ *memnet.Network, server *lab.Server) {
			o := connect(t, server)
			o.enrolled()
			o.does(cordon.RestrictCodeExecution)
			server.OrderKey = seedKey(7)
			a := server.Request(o.id, cordon.UnrestrictCodeExecution)
			time.Sleep(time.Hour)
			if o.kernel.inMode() != cordon.ModeEnforce || server.Action(a.ID).Status != cordon.Pending {
				t.Errorf("in mode %s, the action is %s", o.kernel.inMode(), server.Action(a.ID).Status)
			}
			refusals := 0
			for _, e := range server.Store.AuditLog() {
				if e.Action == a.ID && strings.Contains(e.Detail, "the signature was not made with the expected key") {
					refusals++
				}
			}
			if refusals == 0 || refusals > 80 {
				t.Errorf("%d refusals in an hour", refusals)
			}
		})
	}
}

// A message without sense from the server ends the conversation, no more.
func TestServerTalksNonsense(t *testing.T) {
	var nonsense atomic.Int32
	inBubble(t, lab.Options{Front: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == wire.ConnectPath && nonsense.Add(1) <= 3 {
				ws, err := websocket.Accept(w, r, nil)
				if err != nil {
					return
				}
				for _, text := range []string{`{"capability":1}`, `{"orders":["x"],"settled":["y"],"time":"z"}`, `]`} {
					_ = ws.Write(r.Context(), websocket.MessageText, []byte(text)) // it may have hung up already
				}
				_, _, _ = ws.Read(r.Context()) // its first words, or its end
				return
			}
			next.ServeHTTP(w, r)
		})
	}}, func(t *testing.T, _ *memnet.Network, server *lab.Server) {
		o := connect(t, server)
		o.enrolled()
		o.does(cordon.RestrictCodeExecution)
		if n := nonsense.Load(); n < 4 {
			t.Errorf("%d connections", n)
		}
	})
}

// Orders come in the order of their generations, also when many are open.
func TestManyOrders(t *testing.T) {
	inBubble(t, lab.Options{}, func(t *testing.T, network *memnet.Network, server *lab.Server) {
		o := connect(t, server)
		o.enrolled()
		var want []cordon.Mode
		for i := range 10 {
			network.Down(i%2 == 0)
			if i%2 == 0 {
				time.Sleep(time.Minute)
			}
			server.Request(o.id, cordon.RestrictCodeExecution)
			b := server.Request(o.id, cordon.UnrestrictCodeExecution)
			want = append(want, cordon.ModeEnforce, cordon.ModeOff)
			network.Down(false)
			server.Await(b.ID, cordon.Succeeded)
		}
		var got []cordon.Mode
		var last uint64
		for _, s := range o.kernel.calls() {
			if s.standing.Generation <= last {
				t.Errorf("generation %d after %d", s.standing.Generation, last)
			}
			last = s.standing.Generation
			got = append(got, s.mode)
		}
		if !slices.Equal(want, got) {
			t.Errorf("got %v", got)
		}
	})
}
