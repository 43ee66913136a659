package simulate

import (
	"context"
	"crypto/ed25519"
	cryptorand "crypto/rand"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/uplink"
	"github.com/cordon-project/cordon/internal/wire"
)

// machine is one of the fleet. Its fields belong to the goroutine that runs it.
type machine struct {
	fleet    *Fleet
	number   int
	key      ed25519.PrivateKey
	id       cordon.MachineID
	facts    cordon.Facts
	up       *uplink.Machine
	orderKey ed25519.PublicKey // the only key whose orders count

	standing  cordon.Standing
	heard     time.Time                // when the server was heard last, by the fleet's clock
	unsettled []sent                   // what the server has not taken in, oldest first
	silent    map[cordon.ActionID]bool // orders that were taken up and are not to be answered, however often they come
}

// sent is a signed report.
type sent struct {
	action cordon.ActionID
	report string
}

// Bounds of the reconnect delay: full jitter below a ceiling that doubles.
const (
	firstCeiling = time.Second
	lastCeiling  = time.Minute
)

// run keeps the machine connected until ctx ends.
func (m *machine) run(ctx context.Context) {
	for ceiling := firstCeiling; ; ceiling = min(2*ceiling, lastCeiling) {
		heard, err := m.converse(ctx)
		if ctx.Err() != nil {
			return
		}
		if heard {
			ceiling = firstCeiling
		}
		m.fleet.cfg.Log.DebugContext(ctx, "simulated machine not connected", "machine", m.id, "err", err)
		pause := time.NewTimer(rand.N(ceiling))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// converse is one connection, from its beginning to its end.
func (m *machine) converse(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := m.connect(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	pinging := make(chan struct{})
	go func() {
		defer close(pinging)
		keepAlive(ctx, conn)
	}()
	defer func() {
		cancel()
		<-pinging
	}()

	if _, err := m.tendLease(); err != nil {
		return false, err
	}
	o := m.observe()
	hello := wire.FromAgent{Capability: wire.Capability, Nonce: cryptorand.Text(), Facts: &m.facts, Observed: &o}
	for _, s := range m.unsettled[:min(len(m.unsettled), wire.MaxReports)] {
		hello.Reports = append(hello.Reports, s.report)
	}
	if err := conn.Say(ctx, hello); err != nil {
		return false, err
	}
	for {
		msg, err := conn.Hear(ctx)
		if err != nil {
			return heard, err
		}
		if !heard {
			heard = true
			m.fleet.count(func(s *Stats) { s.Connected++ })
			defer m.fleet.count(func(s *Stats) { s.Connected-- })
			defer func() { m.heard = m.fleet.cfg.Now() }()
		}
		m.heard = m.fleet.cfg.Now()
		before := len(m.unsettled)
		m.unsettled = slices.DeleteFunc(m.unsettled, func(s sent) bool { return slices.Contains(msg.Settled, s.action) })
		if settled := before - len(m.unsettled); settled > 0 {
			m.fleet.count(func(s *Stats) { s.Reports += settled })
		}
		tell := func(report string) error {
			return conn.Say(ctx, wire.FromAgent{Capability: wire.Capability, Reports: []string{report}})
		}
		for _, jws := range msg.Orders {
			report, err := m.take(ctx, jws, tell)
			if err != nil {
				return heard, err
			}
			if report == "" {
				continue
			}
			if err := tell(report); err != nil {
				return heard, err
			}
		}
		// Only now, so that one that was released meanwhile is not restricted for a moment.
		report, err := m.tendLease()
		if err == nil && report != "" {
			err = tell(report)
		}
		if err != nil {
			return heard, err
		}
	}
}

// tendLease does what [cordon.JudgeLease] says after the silence of the server
// so far, and returns the report of it, "" for none. To a simulated machine a
// connection is the server's word for as long as it lasts.
func (m *machine) tendLease() (string, error) {
	now := m.fleet.cfg.Now()
	typ := cordon.LeaseLapsed
	switch cordon.JudgeLease(m.standing, cordon.Silence{Length: now.Sub(m.heard)}) {
	case cordon.LeaseEnds:
		m.standing.Lease.Lapsed, m.standing.Mode = true, cordon.ModeAudit
	case cordon.LeaseAgain:
		m.standing.Lease.Lapsed, m.standing.Mode = false, cordon.ModeEnforce
		typ = cordon.LeaseRenewed
	default:
		return "", nil
	}
	id := cordon.LeaseReportID(m.id, m.standing.Lease.Action, typ, cordon.BootTime{Boot: m.facts.BootID, At: time.Duration(now.UnixNano())})
	report, err := seal.Report(cordon.Report{
		Machine: m.id, Action: id, Generation: m.standing.Generation, Type: typ, State: cordon.ReportSucceeded, Observed: m.observe(),
	}, m.key)
	if err == nil {
		m.unsettled = append(m.unsettled, sent{id, report})
	}
	return report, err
}

// connect opens the connection when it is the machine's turn.
func (m *machine) connect(ctx context.Context) (*uplink.Conn, error) {
	select {
	case m.fleet.dialling <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-m.fleet.dialling }()
	return m.up.Connect(ctx)
}

// keepAlive pings as a real machine does. That the answer stays out is no
// reason to end: the machine may be thinking, and then reads nothing.
func keepAlive(ctx context.Context, conn *uplink.Conn) {
	next := time.NewTimer(rand.N(wire.PingEvery)) // so that a fleet's pings spread
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			next.Reset(wire.PingEvery)
			_ = conn.Ping(ctx) // the reader notices a dead connection
		}
	}
}

// take judges one order and returns the report that answers it, "" for none.
// What is under way it tells.
func (m *machine) take(ctx context.Context, jws string, tell func(report string) error) (string, error) {
	o, err := seal.OpenOrder(jws, m.orderKey)
	if err != nil {
		claimed, _ := seal.ClaimedOrder(jws)
		return m.report(claimed, cordon.ReportRefused, err.Error())
	}
	if i := slices.IndexFunc(m.unsettled, func(s sent) bool { return s.action == o.Action }); i >= 0 {
		return m.unsettled[i].report, nil
	}
	if m.silent[o.Action] {
		return "", nil
	}
	state, reason := cordon.ReportFailed, ""
	verdict, why := cordon.Judge(m.id, m.standing, o, m.fleet.cfg.Now())
	switch verdict {
	case cordon.Begin:
		before := m.standing
		mode := before.Mode
		m.standing = cordon.Standing{Generation: o.Generation, Action: o.Action, Type: o.Type, Mode: o.Type.ModeFor(), Previous: mode, PreviousLease: before.Lease}
		if l := o.Policy.LeaseSeconds; l > 0 && o.Type == cordon.RestrictOrder {
			m.standing.Lease = cordon.Lease{Action: o.Action, Seconds: l}
		}
		state, reason = m.fleet.cfg.Answer(ctx, Task{o, m.number, func() {
			if report, err := m.report(o, cordon.ReportInProgress, ""); err == nil {
				_ = tell(report) // the connection is lost then, and the outcome comes over the next one
			}
		}})
		if state == Unread {
			m.standing = before
			return "", nil
		}
		if ctx.Err() != nil { // the fleet ends
			return "", ctx.Err()
		}
		m.fleet.count(func(s *Stats) { s.Orders++ })
		if m.standing.Outcome, m.standing.Error = state, reason; state != cordon.ReportSucceeded {
			m.standing.Mode, m.standing.Lease = mode, before.Lease
		}
	case cordon.Repeat:
		state, reason = m.standing.Outcome, m.standing.Error
	case cordon.Forgo:
		m.standing.Generation, m.standing.Action, m.standing.Type = o.Generation, o.Action, o.Type
		m.standing.Outcome, m.standing.Error = cordon.ReportCancelled, why
		state, reason = cordon.ReportCancelled, why
	case cordon.Supersede:
		state, reason = cordon.ReportCancelled, why
	case cordon.Refuse:
		reason = why
	}
	if state == "" {
		if m.silent == nil {
			m.silent = make(map[cordon.ActionID]bool)
		}
		m.silent[o.Action] = true
		return "", nil
	}
	report, err := m.report(o, state, reason)
	if err == nil {
		m.unsettled = append(m.unsettled, sent{o.Action, report})
	}
	return report, err
}

func (m *machine) report(o cordon.Order, state cordon.ReportState, reason string) (string, error) {
	return seal.Report(cordon.Report{
		Machine: m.id, Action: o.Action, Generation: o.Generation, State: state, Error: reason, Observed: m.observe(),
	}, m.key)
}

func (m *machine) observe() cordon.Observed {
	mode := m.standing.Mode
	if mode == "" {
		mode = cordon.ModeOff
	}
	var lease cordon.LeaseState
	if l := m.standing.Lease; l.Seconds > 0 {
		lease = cordon.LeaseState{Action: l.Action, Seconds: l.Seconds, Silent: int64(m.fleet.cfg.Now().Sub(m.heard) / time.Second), Lapsed: l.Lapsed}
	}
	return cordon.Observed{
		Generation: m.standing.Generation, Mode: mode, InForce: true, Enforcer: "simulated", Scope: "host",
		Limits: []string{"This machine is simulated: nothing is enforced."}, BootID: m.facts.BootID, Lease: lease, At: m.fleet.cfg.Now().UTC(),
	}
}
