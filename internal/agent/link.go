package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/uplink"
	"github.com/cordon-project/cordon/internal/wire"
)

// linkStatus is what is known of the connection, for people.
type linkStatus struct {
	Transport string    // websocket, sync; empty: not connected
	Since     time.Time // of the above
	LastError string
}

// Bounds of the reconnect delay: full jitter below a ceiling that doubles.
const (
	firstCeiling = time.Second
	lastCeiling  = 5 * time.Minute
	// wsRetry is how long the long-poll fallback is used before the WebSocket is
	// tried again.
	wsRetry = 5 * time.Minute
	// refusedPause is how long a long poll waits before it asks again for an order
	// that could not be taken up, because the server offers it again at once.
	refusedPause = time.Minute
)

// Run enrols if need be and serves the server's orders until ctx ends. It
// returns an error only for what cannot mend itself: a wrong URL or CA file, or an
// enrolment that the server refuses.
func (a *Agent) Run(ctx context.Context) error {
	roots, err := uplink.Roots(a.cfg.CAFile)
	if err != nil {
		return err
	}
	server, err := uplink.New(a.cfg.Server, roots, a.cfg.Now)
	if err != nil {
		return err
	}
	defer server.Close()
	var up *uplink.Machine // nil until the machine is enrolled
	var lease sync.WaitGroup
	defer lease.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lease.Go(func() { a.keepLease(ctx) })
	ceiling := firstCeiling
	for ctx.Err() == nil {
		greeted := false
		var err error
		if up == nil {
			up, err = a.join(ctx, server)
		}
		if err == nil {
			err = a.converse(ctx, up, func() { greeted = true })
		}
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			continue
		}
		if cordon.CodeOf(err) == cordon.CodeEnrollmentRefused {
			return err
		}
		a.setLink("", err)
		if greeted {
			ceiling = firstCeiling
		}
		wait := mathrand.N(ceiling)
		a.cfg.Log.WarnContext(ctx, "not connected", "err", err, "retryIn", wait.Round(time.Millisecond))
		ceiling = min(2*ceiling, lastCeiling)
		if !sleep(ctx, wait) {
			break
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (a *Agent) setLink(transport string, err error) {
	a.linkMu.Lock()
	defer a.linkMu.Unlock()
	if transport != a.link.Transport {
		a.link.Since = a.cfg.Now()
	}
	a.link.Transport = transport
	if err != nil {
		a.link.LastError = err.Error()
	} else {
		a.link.LastError = ""
	}
}

// join enrols the machine if need be.
func (a *Agent) join(ctx context.Context, s *uplink.Server) (*uplink.Machine, error) {
	if a.id == nil {
		return a.enrol(ctx, s)
	}
	return s.Machine(a.key), nil
}

// converse is one try: the WebSocket, then, where that does not get through but
// plain requests do, the long poll. It returns when the conversation broke.
// greeted is called once the server has answered.
func (a *Agent) converse(ctx context.Context, up *uplink.Machine, greeted func()) error {
	err := a.converseWS(ctx, up, greeted)
	if ctx.Err() != nil || !errors.Is(err, uplink.ErrNoUpgrade) {
		return err
	}
	a.cfg.Log.InfoContext(ctx, "WebSocket does not get through, falling back to long polls", "err", err)
	return a.conversePoll(ctx, up, greeted)
}

func (a *Agent) converseWS(run context.Context, up *uplink.Machine, greeted func()) error {
	conn, err := up.Connect(run)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(run)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel()
	defer conn.Close()
	say := func(m wire.FromAgent) error { return conn.Say(ctx, m) }
	orders, policies := make(chan []string, 1), make(chan string, 1)
	parts.Go(func() {
		defer cancel()
		a.keepAlive(ctx, conn.Ping, say)
	})
	parts.Go(func() {
		defer cancel()
		a.obey(run, ctx, orders, policies, say)
	})

	hello, err := a.hello()
	if err == nil {
		err = say(hello)
	}
	if err != nil {
		return err
	}
	for {
		m, err := conn.Hear(ctx)
		if err != nil {
			return err
		}
		a.setLink("websocket", nil)
		greeted()
		a.hear(ctx, m)
		if m.Policy != "" {
			select {
			case <-policies:
			default:
			}
			policies <- m.Policy
		}
		if len(m.Orders) > 0 {
			// Every list holds all orders that are open, so the newest is enough.
			select {
			case <-orders:
			default:
			}
			orders <- m.Orders
		}
	}
}

// obey takes up the orders that a connection brings, beside its reader, because
// one may take minutes and the connection has to be kept alive meanwhile. An
// order that was begun is finished even if the connection breaks; only the end
// of run interrupts it.
func (a *Agent) obey(run, ctx context.Context, orders <-chan []string, policies <-chan string, say func(wire.FromAgent) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case jws := <-policies:
			if a.takePolicy(run, jws) && say(a.ask()) != nil {
				return
			}
		case list := <-orders:
			// Where it does not arrive, the outcome does over the next connection.
			tell := func(report string) { _ = say(wire.FromAgent{Capability: wire.Capability, Reports: []string{report}}) }
			reports, _ := a.takeAll(run, list, tell)
			a.renew(run)
			if len(reports) > 0 && say(wire.FromAgent{Capability: wire.Capability, Reports: reports}) != nil {
				return
			}
		}
	}
}

// takeAll takes up orders one after the other and returns the reports that
// answer them. refused tells that there was one that could not be taken up.
func (a *Agent) takeAll(ctx context.Context, orders []string, progress func(string)) (reports []string, refused bool) {
	for _, jws := range orders {
		report, err := a.takeUp(ctx, jws, false, progress)
		if err != nil {
			refused = true
			a.cfg.Log.DebugContext(ctx, "order not taken up", "err", err)
		}
		if report != "" {
			reports = append(reports, report)
		}
	}
	return reports, refused
}

// keepAlive pings, so that both ends and everything between notice a dead
// connection, and now and then asks for what a lost nudge would have told. When
// woken it tells what the server has not settled.
func (a *Agent) keepAlive(ctx context.Context, ping func(context.Context) error, say func(wire.FromAgent) error) {
	alive, ask, tell := time.NewTicker(wire.PingEvery), time.NewTicker(wire.SyncEvery), time.NewTicker(wire.TellEvery)
	defer alive.Stop()
	defer ask.Stop()
	defer tell.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-alive.C:
			err = ping(ctx)
		case <-ask.C:
			err = say(a.ask())
		case <-a.asking:
			err = say(a.ask())
		case <-tell.C:
			if err = a.tellFindings(say); err == nil && a.holdsElse() {
				err = say(a.ask())
			}
		case <-a.awake:
			err = say(wire.FromAgent{Capability: wire.Capability, Reports: a.outbox()})
		}
		if err != nil {
			return
		}
	}
}

func (a *Agent) conversePoll(ctx context.Context, up *uplink.Machine, greeted func()) error {
	exchange := func(msg wire.FromAgent) (wire.FromServer, error) {
		answer, err := up.Sync(ctx, msg)
		if err != nil {
			return answer, err
		}
		a.setLink("sync", nil)
		greeted()
		a.hear(ctx, answer)
		return answer, nil
	}
	tell := func(reports ...string) error {
		_, err := exchange(wire.FromAgent{Capability: wire.Capability, Reports: reports})
		return err
	}
	for end := a.cfg.Now().Add(wsRetry); a.cfg.Now().Before(end); {
		if err := a.tellFindings(func(m wire.FromAgent) error { _, err := exchange(m); return err }); err != nil {
			return err
		}
		msg, err := a.hello()
		if err != nil {
			return err
		}
		msg.WaitMS = int(a.patience().Milliseconds())
		wait := false // something that could not be taken up will be offered again at once
		answer, err := exchange(msg)
		if err != nil {
			return err
		}
		if answer.Policy != "" { // the next question says that it was taken up
			wait = !a.takePolicy(ctx, answer.Policy)
		}
		reports, refused := a.takeAll(ctx, answer.Orders, func(report string) { _ = tell(report) }) // as in obey
		a.renew(ctx)
		if len(reports) > 0 {
			if err := tell(reports...); err != nil {
				return err
			}
		}
		if (wait || refused) && !sleep(ctx, refusedPause) {
			return ctx.Err()
		}
	}
	return nil
}

// hello is the first message of a conversation: everything the server needs to
// know, and a question for everything that waits.
func (a *Agent) hello() (wire.FromAgent, error) {
	facts, err := a.cfg.Facts()
	if err != nil {
		return wire.FromAgent{}, fmt.Errorf("read machine facts: %w", err)
	}
	m := a.ask()
	m.Facts = &facts
	return m, nil
}

// ask tells what the server has not yet taken in and asks for orders and the time.
func (a *Agent) ask() wire.FromAgent {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.observe()
	a.asked = question{nonce: rand.Text(), at: a.cfg.Now(), boot: a.cfg.Boot(), inForce: o.InForce, problem: o.Problem}
	return wire.FromAgent{Capability: wire.Capability, Nonce: a.asked.nonce, Observed: &o, Reports: a.st.Reports()}
}

// holdsElse reports whether what was said last of the machine's restriction is not
// true any more.
func (a *Agent) holdsElse() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.observe()
	return o.InForce != a.asked.inForce || o.Problem != a.asked.problem
}

// tellFindings says what the server has not taken in yet of files that are not
// trusted, one kind in a message.
func (a *Agent) tellFindings(say func(wire.FromAgent) error) error {
	if a.findings == nil {
		return nil
	}
	for _, s := range a.findings() {
		a.toldMu.Lock()
		known := a.told[s.Kind] == wire.Told{Kind: s.Kind, Series: s.Series, Sequence: s.Sequence}
		a.toldMu.Unlock()
		if known {
			continue
		}
		if err := say(wire.FromAgent{Capability: wire.Capability, Findings: []cordon.Findings{s}}); err != nil {
			return err
		}
	}
	return nil
}

// outbox returns the reports that the server has not settled.
func (a *Agent) outbox() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.st.Reports()
}

// hear takes in what a message says besides its orders.
func (a *Agent) hear(ctx context.Context, m wire.FromServer) {
	a.toldMu.Lock()
	for _, t := range m.Told {
		if a.told == nil {
			a.told = make(map[cordon.FindingKind]wire.Told)
		}
		a.told[t.Kind] = t
	}
	a.toldMu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if m.Time != "" {
		a.learnTime(ctx, m.Time)
	}
	if len(m.Orders) == 0 || !a.st.Standing.Lease.Lapsed {
		// What has lapsed waits until the orders that came with it are taken up: one
		// of them may end it.
		a.renewLocked(ctx)
	}
	if a.st.Settle(m.Settled) {
		if err := a.dir.SaveState(a.st); err != nil {
			a.cfg.Log.ErrorContext(ctx, "settled reports could not be dropped from disk, they will be sent again", "err", err)
		}
	}
	a.publish()
}

// question is what a server's word on the time has to answer.
type question struct {
	nonce   string
	at      time.Time // by this machine's clock
	boot    cordon.BootTime
	inForce bool   // as was said with it
	problem string // the same
}

// clock is the server's word on the time. It holds from when it was asked for,
// not from when it came: a long poll may have held it back, and this way it is
// never behind the server's clock.
type clock struct {
	server time.Time
	own    time.Time // this machine's clock when it asked; zero: never heard
}

// offset returns the server's clock minus this machine's, which says now. What
// counts is the time that has passed, so it stays right when somebody sets the
// machine's clock, as far as its readings are monotonic (package time).
func (c clock) offset(now time.Time) time.Duration {
	if c.own.IsZero() {
		return 0
	}
	return c.server.Add(now.Sub(c.own)).Sub(now)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// plainlyWrong is a difference between the clocks that no delay explains.
const plainlyWrong = 5 * time.Minute

// learnTime is called with mu held. A word that does not verify or does not
// answer the last question is ignored: what was known before stands.
func (a *Agent) learnTime(ctx context.Context, jws string) {
	t, err := seal.OpenTime(jws, a.orderKey)
	if err != nil || t.Machine != a.id.Machine || t.Nonce != a.asked.nonce {
		return
	}
	a.clock = clock{server: t.Now, own: a.asked.at}
	boot := a.asked.boot // not now: something in between may have held the answer back
	a.heard = &boot
	if t.Now.Sub(a.st.Heard) >= time.Minute {
		before := a.st.Heard
		a.st.Heard = t.Now.UTC()
		if err := a.dir.SaveState(a.st); err != nil {
			a.st.Heard = before // it is said again within minutes
			a.cfg.Log.ErrorContext(ctx, "the server's time could not be stored", "err", err)
		}
	}
	if offset := a.clock.offset(a.cfg.Now()); offset.Abs() > plainlyWrong {
		a.cfg.Log.WarnContext(ctx, "this machine's clock is plainly wrong", "offset", offset.Round(time.Second))
	}
}
