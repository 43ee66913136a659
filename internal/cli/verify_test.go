package cli

import (
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/mde"
)

// proof makes a succeeded action with good evidence on a fake server.
func proof(t testing.TB) (mde.MachineAction, mde.Evidence) {
	t.Helper()
	f := newFake()
	defer f.release()
	defer f.Close()
	m := f.machines[0]
	a := &fakeAction{machine: m, generation: 4, steps: slices.Clone(m.steps), MachineAction: mde.MachineAction{
		ID: "a-1", Type: mde.RestrictCodeExecution, Status: mde.Pending, MachineID: m.ID, CreationDateTimeUTC: epoch}}
	a.note(cordon.AuditCreated, "app", "", "")
	for range m.steps {
		f.step(a)
	}
	jwk := func(k ed25519.PrivateKey) json.RawMessage {
		b, err := seal.MarshalKey(k.Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return a.MachineAction, mde.Evidence{OrderKey: jwk(f.orderKey), MachineKey: jwk(m.key), Entries: a.entries}
}

// TestVerifyRefuses spoils good evidence in one way at a time. The entries are
// created, delivered, InProgress, Succeeded.
func TestVerifyRefuses(t *testing.T) {
	other := key("other")
	otherJWK, err := seal.MarshalKey(other.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	order := func(o cordon.Order, k ed25519.PrivateKey) string { s, _ := seal.Order(o, k); return s }
	report := func(r cordon.Report, k ed25519.PrivateKey) string { s, _ := seal.Report(r, k); return s }
	web := key("web-01.example.org")
	webID := cordon.IDOfKey(web.Public().(ed25519.PublicKey))
	for want, spoil := range map[string]func(*mde.MachineAction, *mde.Evidence){
		"": func(*mde.MachineAction, *mde.Evidence) {},
		"the order in entry 2: The signed statement is refused: the signature": func(_ *mde.MachineAction, e *mde.Evidence) { e.OrderKey = otherJWK },
		"the machine's id is not the digest of its key":                        func(_ *mde.MachineAction, e *mde.Evidence) { e.MachineKey = otherJWK },
		"the server's order key: read public key":                              func(_ *mde.MachineAction, e *mde.Evidence) { e.OrderKey = nil },
		"the machine's key: read public key": func(_ *mde.MachineAction, e *mde.Evidence) {
			e.MachineKey = json.RawMessage(`{"kty":"oct","k":"AAAA"}`)
		},
		"there is no signed order for it": func(_ *mde.MachineAction, e *mde.Evidence) {
			e.Entries = slices.Delete(e.Entries, 1, 2)
		},
		"there is no signed report of the machine that says Succeeded": func(_ *mde.MachineAction, e *mde.Evidence) { e.Entries = e.Entries[:3] },
		"there is no signed report of the machine that says Failed":    func(a *mde.MachineAction, _ *mde.Evidence) { a.Status = mde.Failed },
		"the action is still InProgress":                               func(a *mde.MachineAction, _ *mde.Evidence) { a.Status = mde.InProgress },
		"the report in entry 4: it is about action a-2": func(_ *mde.MachineAction, e *mde.Evidence) {
			e.Entries[3].Evidence = report(cordon.Report{Machine: webID, Action: "a-2", Generation: 4, State: cordon.ReportSucceeded}, web)
		},
		"the report in entry 4: it is about machine elsewhere": func(_ *mde.MachineAction, e *mde.Evidence) {
			e.Entries[3].Evidence = report(cordon.Report{Machine: "elsewhere", Action: "a-1", Generation: 4, State: cordon.ReportSucceeded}, web)
		},
		"the report in entry 4: The signed statement is refused: the signature": func(_ *mde.MachineAction, e *mde.Evidence) {
			e.Entries[3].Evidence = report(cordon.Report{Machine: webID, Action: "a-1", Generation: 4, State: cordon.ReportSucceeded}, other)
		},
		"the report is about generation 3, the order about 4": func(_ *mde.MachineAction, e *mde.Evidence) {
			e.Entries[3].Evidence = report(cordon.Report{Machine: webID, Action: "a-1", Generation: 3, State: cordon.ReportSucceeded}, web)
		},
		"the order in entry 2: it is about machine elsewhere": func(_ *mde.MachineAction, e *mde.Evidence) {
			e.Entries[1].Evidence = order(cordon.Order{Machine: "elsewhere", Action: "a-1", Generation: 4, Type: cordon.RestrictOrder}, key("order"))
		},
		"the order in entry 2: it is about action a-2": func(_ *mde.MachineAction, e *mde.Evidence) {
			e.Entries[1].Evidence = order(cordon.Order{Machine: webID, Action: "a-2", Generation: 4, Type: cordon.RestrictOrder}, key("order"))
		},
		"the report in entry 2: The signed statement is refused: it is a cordon-order+jws, not a cordon-report+jws": func(_ *mde.MachineAction, e *mde.Evidence) {
			e.Entries[1].Kind = cordon.AuditReport
		},
		"the order in entry 2: The signed statement is refused: it is a cordon-report+jws": func(_ *mde.MachineAction, e *mde.Evidence) {
			e.Entries[1].Evidence = e.Entries[3].Evidence
		},
	} {
		a, e := proof(t)
		spoil(&a, &e)
		v := verify(a, e)
		if v.Proven != (want == "") || v.Proven != (len(v.Problems) == 0) {
			t.Errorf("want %q: proven %v, problems %q", want, v.Proven, v.Problems)
		} else if !v.Proven && !strings.HasPrefix(v.Problems[0], want) {
			t.Errorf("want %q, got %q", want, v.Problems)
		}
		// An order for the other thing does not prove this one.
		a.Type = mde.UnrestrictCodeExecution
		if verify(a, e).Proven {
			t.Errorf("%q: an order to restrict proves that it was to unrestrict", want)
		}
	}
}

// FuzzVerify feeds evidence that no honest server would send.
func FuzzVerify(f *testing.F) {
	a, e := proof(f)
	good, err := json.Marshal(e)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(good), a.MachineID)
	f.Add(`{"orderKey":{},"machineKey":null,"entries":[{"evidence":"a.b.c"}]}`, "")
	f.Add(strings.ReplaceAll(string(good), "Ed25519", "P-256"), a.MachineID)
	f.Fuzz(func(t *testing.T, evidence, machine string) {
		var e mde.Evidence
		if json.Unmarshal([]byte(evidence), &e) != nil {
			return
		}
		b := a
		b.MachineID = machine
		v := verify(b, e)
		if v.Proven != (len(v.Problems) == 0) {
			t.Errorf("proven %v with %q", v.Proven, v.Problems)
		}
		if v.Proven && !strings.EqualFold(machine, a.MachineID) {
			t.Errorf("proven for machine %q", machine)
		}
		describeVerdict(b, v)
	})
}
