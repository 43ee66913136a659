package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
)

// label changes the labels of machines and audits each.
func label(l cordon.Labels) cordon.LabelChange {
	return func(m cordon.Machine) (cordon.Labels, []cordon.AuditEntry, error) {
		return l, []cordon.AuditEntry{{At: Noon, Kind: cordon.AuditLabelled, Machine: m.ID, Action: "about-labels", Actor: "SOAR", Detail: "labels"}}, nil
	}
}

func testLabels(w *world) {
	other := w.enrol("other")
	ids := []cordon.MachineID{other.ID, w.machine.ID}
	labels := cordon.Labels{Tags: []string{"Web", "prod"}, Value: cordon.HighValue}
	changed, err := w.ChangeLabels(w.Context(), ids, label(labels))
	if err != nil {
		w.Fatal(err)
	}
	other.Labels, w.machine.Labels = labels, labels
	w.diff("returned", []cordon.Machine{other, w.machine}, changed)
	changed[0].Tags[0] = "not the store's"
	w.diff("kept", other, w.machineNow(other.ID))
	if n := len(w.auditOf("about-labels")); n != 2 {
		w.Errorf("%d audit entries, want 2", n)
	}
	tagged := func(tag string) int {
		w.Helper()
		found, _, err := w.Machines(w.Context(), cordon.Query{Filter: cordon.Any{Field: cordon.FieldTags, X: cordon.Compare{Field: cordon.ElementField, Value: tag}}})
		if err != nil {
			w.Fatal(err)
		}
		return len(found)
	}
	if tagged("web") != 2 || tagged("prod") != 2 || tagged("none") != 0 {
		w.Errorf("%d web, %d prod", tagged("web"), tagged("prod"))
	}

	// All or none.
	stop := errors.New("stop")
	_, err = w.ChangeLabels(w.Context(), ids, func(m cordon.Machine) (cordon.Labels, []cordon.AuditEntry, error) {
		_, entries, _ := label(cordon.Labels{})(m)
		if m.ID == w.machine.ID {
			return cordon.Labels{}, entries, stop
		}
		return cordon.Labels{Value: cordon.LowValue}, entries, nil
	})
	if !errors.Is(err, stop) {
		w.Errorf("error %v, want the change's own", err)
	}
	for _, stranger := range []cordon.MachineID{Machine("stranger", "").ID, "", "x"} {
		_, err = w.ChangeLabels(w.Context(), []cordon.MachineID{other.ID, stranger}, label(cordon.Labels{Value: cordon.LowValue}))
		w.wantError("ChangeLabels with a stranger", err, cordon.NotFound, "")
	}
	w.diff("not changed", other, w.machineNow(other.ID))
	if n := len(w.auditOf("about-labels")); n != 2 || tagged("web") != 2 {
		w.Errorf("%d audit entries, want 2", n)
	}

	// What a machine says does not touch them; an enrolment does not bring any.
	again := other
	again.Labels = cordon.Labels{Tags: []string{"from the machine"}, Value: cordon.LowValue}
	if _, err := w.EnrolMachine(w.Context(), again); err != nil {
		w.Fatal(err)
	}
	if err := w.Store.MachineSaid(w.Context(), other.ID, &other.Facts, cordon.Observed{}, Noon); err != nil {
		w.Fatal(err)
	}
	w.diff("after the machine spoke", other.Labels, w.machineNow(other.ID).Labels)
	fresh := Machine("fresh", "")
	fresh.Labels = again.Labels
	if _, err := w.EnrolMachine(w.Context(), fresh); err != nil {
		w.Fatal(err)
	}
	w.diff("new", cordon.Labels{Value: cordon.NormalValue}, w.machineNow(fresh.ID).Labels)

	// Fewer, and none.
	for _, l := range []cordon.Labels{{Tags: []string{"PROD"}, Value: cordon.HighValue}, {Value: cordon.NormalValue}} {
		if _, err := w.ChangeLabels(w.Context(), ids[:1], label(l)); err != nil {
			w.Fatal(err)
		}
		w.diff("now", l, w.machineNow(other.ID).Labels)
	}
	if tagged("prod") != 1 || tagged("web") != 1 {
		w.Errorf("%d web, %d prod, want those of the other machine", tagged("web"), tagged("prod"))
	}

	// At once: none is lost.
	together(func(i int) {
		_, err := w.ChangeLabels(w.Context(), ids, func(m cordon.Machine) (cordon.Labels, []cordon.AuditEntry, error) {
			m.Tags = append(m.Tags, fmt.Sprint("tag", i))
			return m.Labels, nil, nil
		})
		if err != nil {
			w.Error(err)
		}
	})
	if n := len(w.machineNow(other.ID).Tags); n != callers {
		w.Errorf("%d tags, want %d", n, callers)
	}
}

func testAddresses(w *world) {
	other := w.enrol("other")
	say := func(m *cordon.Machine, at time.Time, addresses ...string) {
		w.Helper()
		m.Facts.LastIP, m.Facts.Interfaces = addresses[0], nil
		for _, a := range addresses[1:] {
			m.Facts.Interfaces = append(m.Facts.Interfaces, cordon.Interface{IP: a, Type: "Ethernet", Status: "Up"})
		}
		if err := w.Store.MachineSaid(w.Context(), m.ID, &m.Facts, cordon.Observed{}, at); err != nil {
			w.Fatal(err)
		}
	}
	find := func(address string, at time.Time, want ...cordon.Machine) {
		w.Helper()
		found, err := w.MachinesByAddress(w.Context(), address, at.Add(-cordon.SightingWindow), at.Add(cordon.SightingWindow), 10)
		if err != nil {
			w.Fatal(err)
		}
		if !slices.EqualFunc(want, found, func(a, b cordon.Machine) bool { return a.ID == b.ID }) {
			w.Errorf("%s at %s: %d machines, want %d", address, at, len(found), len(want))
		}
	}
	minute := func(n int) time.Time { return Noon.Add(time.Duration(n) * time.Minute) }
	find("10.1.2.3", Noon.Add(-time.Hour))
	find("10.1.2.3", minute(-15).Add(-cordon.Tick))
	find("127.0.0.1", Noon)

	say(&other, minute(10), "192.0.2.1", "2001:db8::1", "127.0.0.1")
	both := []cordon.Machine{w.machine, other} // seen last at one time: in the order of their ids
	slices.SortFunc(both, func(a, b cordon.Machine) int { return cmp.Compare(a.ID, b.ID) })
	find("10.1.2.3", minute(15), both...)
	find("10.1.2.3", minute(15).Add(cordon.Tick))
	find("192.0.2.1", minute(-5), other)
	find("192.0.2.1", minute(-5).Add(-cordon.Tick))
	find("2001:db8::1", minute(25), other)
	find("2001:db8::1", minute(25).Add(cordon.Tick))
	find("127.0.0.1", minute(10))

	// Without a word about addresses it still has them while it is seen.
	if err := w.TouchMachines(w.Context(), map[cordon.MachineID]time.Time{other.ID: minute(60)}); err != nil {
		w.Fatal(err)
	}
	find("192.0.2.1", minute(75), other)
	find("192.0.2.1", minute(75).Add(cordon.Tick))

	// The address goes to another machine: who had it last comes first.
	say(&other, minute(70), "192.0.2.2")
	say(&w.machine, minute(72), "192.0.2.1")
	find("192.0.2.1", minute(74), w.machine, other)
	find("192.0.2.1", minute(76), w.machine)
	find("192.0.2.1", minute(30), other)
	say(&other, minute(80), "192.0.2.1")
	find("192.0.2.1", minute(70), other, w.machine)
	if found, err := w.MachinesByAddress(w.Context(), "192.0.2.1", Noon, minute(100), 1); err != nil || len(found) != 1 || found[0].ID != other.ID {
		w.Errorf("limited: %v, %v", found, err)
	}
	find("192.0.2.", minute(74))
	find("", minute(74))
}

// testAddressesRandom compares the store with all that machines ever said.
func testAddressesRandom(w *world) {
	addresses := []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}
	round := 0
	rapid.Check(w.T, func(t *rapid.T) {
		round++
		type said struct {
			at  time.Time
			has []string // nil: it was only seen
		}
		history := make(map[cordon.MachineID][]said)
		start := Noon.Add(time.Duration(round) * 100 * 24 * time.Hour) // far from the other rounds
		for i := range 2 {
			m := Machine(fmt.Sprint("round", round, "machine", i), "")
			m.FirstSeen, m.LastSeen, m.Facts.LastIP, m.Facts.Interfaces = start, start, addresses[i], nil
			if _, err := w.EnrolMachine(w.Context(), m); err != nil {
				t.Fatal(err)
			}
			history[m.ID] = []said{{start, []string{addresses[i]}}}
			at := start
			for range rapid.IntRange(0, 6).Draw(t, "events") {
				at = at.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 10, 15, 30, 600, 1439, 1440, 1441, 2000}).Draw(t, "minutes")) * time.Minute)
				s := said{at: at}
				if rapid.Bool().Draw(t, "speaks") {
					s.has = rapid.SliceOfNDistinct(rapid.SampledFrom(addresses), 0, 2, rapid.ID).Draw(t, "has")
					f := cordon.Facts{}
					for _, a := range s.has {
						f.Interfaces = append(f.Interfaces, cordon.Interface{IP: a})
					}
					if err := w.Store.MachineSaid(w.Context(), m.ID, &f, cordon.Observed{}, at); err != nil {
						t.Fatal(err)
					}
					if s.has == nil {
						s.has = []string{}
					}
				} else if err := w.TouchMachines(w.Context(), map[cordon.MachineID]time.Time{m.ID: at}); err != nil {
					t.Fatal(err)
				}
				history[m.ID] = append(history[m.ID], s)
			}
		}
		// A machine had an address at each moment at which it was seen since it said
		// so and until it said otherwise, and in between if that is not long.
		had := func(m cordon.MachineID, address string, from, to time.Time) bool {
			var since *time.Time
			last := time.Time{}
			overlaps := func(a, b time.Time) bool { return !a.After(to) && !b.Before(from) }
			for _, s := range history[m] {
				if since != nil && s.has != nil && (s.at.Sub(last) > cordon.SightingGap || !slices.Contains(s.has, address)) {
					if overlaps(*since, last) {
						return true
					}
					since = nil
				}
				if since == nil && slices.Contains(s.has, address) {
					since = &s.at
				}
				last = s.at
			}
			return since != nil && overlaps(*since, last)
		}
		for range 20 {
			at := start.Add(time.Duration(rapid.IntRange(-60, 5000).Draw(t, "asked")) * time.Minute)
			address := rapid.SampledFrom(addresses).Draw(t, "address")
			from, to := at.Add(-cordon.SightingWindow), at.Add(cordon.SightingWindow)
			found, err := w.MachinesByAddress(w.Context(), address, from, to, 10)
			if err != nil {
				t.Fatal(err)
			}
			for m := range history {
				if want, got := had(m, address, from, to), slices.ContainsFunc(found, func(f cordon.Machine) bool { return f.ID == m }); want != got {
					t.Fatalf("%s at %s: found %t, want %t\n%v", address, at, got, want, history[m])
				}
			}
		}
	})
}
