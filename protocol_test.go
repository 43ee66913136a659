package cordon_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/test/interleave"
)

// No action is lost, doubled, reordered or resurrected under any interleaving
// of create, deliver, report, cancel, expire and crash. See package interleave
// for what is checked; the machine here is as small as one can be that keeps
// the promises which the protocol needs.
func TestProtocol(t *testing.T) {
	for i := range 10 { // some histories are rare: 100 of them are too few
		t.Run(fmt.Sprint(i), rapid.MakeCheck(func(t *rapid.T) {
			interleave.Run(t, func(s interleave.Setup) interleave.Machine {
				return &modelMachine{Setup: s, id: cordon.IDOfKey(s.Key.Public().(ed25519.PublicKey))}
			})
		}))
	}
}

// modelMachine is what an agent has to be, and nothing else.
type modelMachine struct {
	interleave.Setup
	id        cordon.MachineID
	mem, disk modelState
	broken    bool
	crashed   *modelState
}

type modelState struct {
	standing cordon.Standing
	answers  []cordon.Report // to all orders that it ever answered for good
	outbox   []cordon.Report
}

func (s modelState) clone() modelState {
	s.answers, s.outbox = slices.Clone(s.answers), slices.Clone(s.outbox)
	return s
}

func (m *modelMachine) save() error {
	if m.broken {
		return errors.New("disk full")
	}
	m.disk = m.mem.clone()
	return nil
}

func (m *modelMachine) sign(r cordon.Report) []string {
	r.Machine, r.Observed.Generation = m.id, m.mem.standing.Generation
	jws, err := seal.Report(r, m.Key)
	if err != nil {
		panic(err)
	}
	return []string{jws}
}

// answer stores an answer and the standing that goes with it, or changes nothing.
func (m *modelMachine) answer(s cordon.Standing, r cordon.Report) ([]string, error) {
	before := m.mem.clone()
	m.mem.standing, m.mem.answers, m.mem.outbox = s, append(m.mem.answers, r), append(m.mem.outbox, r)
	if err := m.save(); err != nil {
		m.mem = before
		return nil, err
	}
	return m.sign(r), nil
}

func (m *modelMachine) Take(jws string) []string {
	if m.unfinished() {
		if m.finish(); m.unfinished() {
			return nil
		}
	}
	o, err := seal.OpenOrder(jws, m.OrderKey)
	if err != nil {
		return m.sign(cordon.Report{State: cordon.ReportRefused, Error: err.Error()})
	}
	r := cordon.Report{Action: o.Action, Generation: o.Generation}
	refused := func(why string) []string {
		r.State, r.Error = cordon.ReportRefused, why
		return m.sign(r)
	}
	verdict, why := cordon.Judge(m.id, m.mem.standing, o, m.Now())
	if i := slices.IndexFunc(m.mem.answers, func(r cordon.Report) bool { return r.Action == o.Action }); i >= 0 && o.Machine == m.id {
		return m.sign(m.mem.answers[i])
	}
	before := m.mem.standing
	s := before
	if s.Mode == "" {
		s.Mode = cordon.ModeOff
	}
	switch verdict {
	case cordon.Begin:
		m.mem.standing = cordon.Standing{Generation: o.Generation, Action: o.Action, Type: o.Type, Mode: o.Type.ModeFor(), Previous: s.Mode}
		if err := m.save(); err != nil {
			m.mem.standing = before
			return refused(err.Error())
		}
		return m.finish()
	case cordon.Repeat:
		panic("an order that was taken up has an answer")
	case cordon.Forgo:
		s.Generation, s.Action, s.Type, s.Outcome = o.Generation, o.Action, o.Type, cordon.ReportCancelled
		r.State, r.Error = cordon.ReportCancelled, why
	case cordon.Supersede:
		r.State, r.Error = cordon.ReportCancelled, why
	case cordon.Refuse:
		if o.Machine != m.id {
			return refused(why)
		}
		r.State, r.Error = cordon.ReportFailed, why
	}
	reports, err := m.answer(s, r)
	if err != nil {
		return refused(err.Error())
	}
	return reports
}

func (m *modelMachine) unfinished() bool {
	return m.mem.standing.Generation > 0 && m.mem.standing.Outcome == ""
}

// finish makes the standing true that is on disk, and says how that went. A
// success is said even if it cannot be stored; a failure only once it is.
func (m *modelMachine) finish() []string {
	s := m.mem.standing
	r := cordon.Report{Action: s.Action, Generation: s.Generation, State: cordon.ReportSucceeded}
	if err := m.Kernel.Switch(s.Mode); err != nil {
		r.State, r.Error = cordon.ReportFailed, err.Error()
		s.Mode = s.Previous
	}
	s.Outcome = r.State
	reports, err := m.answer(s, r)
	if err != nil && r.State == cordon.ReportSucceeded {
		m.mem.standing, m.mem.answers, m.mem.outbox = s, append(m.mem.answers, r), append(m.mem.outbox, r)
		return m.sign(r)
	}
	return reports
}

func (m *modelMachine) Restart() {
	if m.crashed != nil {
		m.disk, m.crashed = *m.crashed, nil
	}
	m.mem = m.disk.clone()
	if m.unfinished() {
		m.finish()
	}
	if m.mem.standing.Generation > 0 {
		if err := m.Kernel.Switch(m.mem.standing.Mode); err != nil {
			panic(err)
		}
	}
}

func (m *modelMachine) Outbox() []string {
	var jws []string
	for _, r := range m.mem.outbox {
		jws = append(jws, m.sign(r)...)
	}
	return jws
}

func (m *modelMachine) Settle(actions []cordon.ActionID) {
	m.mem.outbox = slices.DeleteFunc(m.mem.outbox, func(r cordon.Report) bool { return slices.Contains(actions, r.Action) })
	_ = m.save() // else they are told again
}

func (m *modelMachine) Durable() cordon.Standing { return m.disk.standing }
func (m *modelMachine) Snapshot()                { s := m.disk.clone(); m.crashed = &s }
func (m *modelMachine) BreakDisk(broken bool)    { m.broken = broken }
