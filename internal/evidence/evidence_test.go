package evidence_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/evidence"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/mde"
)

// key is always the same for a name.
func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func jwk(t testing.TB, k ed25519.PrivateKey) json.RawMessage {
	t.Helper()
	b, err := seal.MarshalKey(k.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	web   = key("web")
	webID = cordon.IDOfKey(web.Public().(ed25519.PublicKey))
)

// proof makes a succeeded action with good evidence.
func proof(t testing.TB) (mde.MachineAction, mde.Evidence) {
	t.Helper()
	must := func(jws string, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return jws
	}
	report := func(state cordon.ReportState) string {
		return must(seal.Report(cordon.Report{Machine: webID, Action: "a-1", Generation: 4, State: state}, web))
	}
	return mde.MachineAction{ID: "a-1", Type: mde.RestrictCodeExecution, Status: mde.Succeeded, MachineID: string(webID)}, mde.Evidence{
		OrderKey: jwk(t, key("order")), MachineKey: jwk(t, web),
		Entries: []mde.AuditEntry{
			{Seq: 1, Kind: cordon.AuditCreated},
			{Seq: 2, Kind: cordon.AuditDelivered, Evidence: must(seal.Order(cordon.Order{Machine: webID, Action: "a-1", Generation: 4, Type: cordon.RestrictOrder}, key("order")))},
			{Seq: 3, Kind: cordon.AuditReport, Evidence: report(cordon.ReportInProgress)},
			{Seq: 4, Kind: cordon.AuditReport, Evidence: report(cordon.ReportSucceeded)},
		},
	}
}

// TestVerifyRefuses spoils good evidence in one way at a time. The entries are
// created, delivered, InProgress, Succeeded.
func TestVerifyRefuses(t *testing.T) {
	other := key("other")
	otherJWK := jwk(t, other)
	order := func(o cordon.Order, k ed25519.PrivateKey) string { s, _ := seal.Order(o, k); return s }
	report := func(r cordon.Report, k ed25519.PrivateKey) string { s, _ := seal.Report(r, k); return s }
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
		v := evidence.Verify(a, e)
		if v.Proven != (want == "") || v.Proven != (len(v.Problems) == 0) {
			t.Errorf("want %q: proven %v, problems %q", want, v.Proven, v.Problems)
		} else if !v.Proven && !strings.HasPrefix(v.Problems[0], want) {
			t.Errorf("want %q, got %q", want, v.Problems)
		}
		// An order for the other thing does not prove this one.
		a.Type = mde.UnrestrictCodeExecution
		if evidence.Verify(a, e).Proven {
			t.Errorf("%q: an order to restrict proves that it was to unrestrict", want)
		}
	}
}

// A lapse of the lease is a statement about its own action, and no end of it.
func TestVerifyLease(t *testing.T) {
	a, e := proof(t)
	lapse := func(of cordon.ActionID) string {
		jws, err := seal.Report(cordon.Report{
			Machine: webID, Action: "its-own-id", Generation: 4, Type: cordon.LeaseLapsed, State: cordon.ReportSucceeded,
			Observed: cordon.Observed{Lease: cordon.LeaseState{Action: of, Seconds: 60, Lapsed: true}},
		}, web)
		if err != nil {
			t.Fatal(err)
		}
		return jws
	}
	e.Entries = append(e.Entries, mde.AuditEntry{Seq: 5, Kind: cordon.AuditLease, Evidence: lapse("a-1")})
	v := evidence.Verify(a, e)
	if f := v.Findings[len(v.Findings)-1]; !v.Proven || f.Statement != evidence.Report || f.Says != string(cordon.LeaseLapsed) || f.Observed == nil || !f.Observed.Lease.Lapsed {
		t.Errorf("%+v, %q", f, v.Problems)
	}
	e.Entries[3].Evidence, e.Entries[3].Kind = lapse("a-1"), cordon.AuditLease
	if v := evidence.Verify(a, e); v.Proven {
		t.Error("a lease's report proves an end")
	}
	a, e = proof(t)
	e.Entries = append(e.Entries, mde.AuditEntry{Seq: 5, Kind: cordon.AuditLease, Evidence: lapse("a-2")})
	if v := evidence.Verify(a, e); v.Proven || v.Problems[0] != "the report in entry 5: it is about action a-2" {
		t.Errorf("%q", v.Problems)
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
	f.Fuzz(func(t *testing.T, text, machine string) {
		var e mde.Evidence
		if json.Unmarshal([]byte(text), &e) != nil {
			return
		}
		b := a
		b.MachineID = machine
		v := evidence.Verify(b, e)
		if v.Proven != (len(v.Problems) == 0) {
			t.Errorf("proven %v with %q", v.Proven, v.Problems)
		}
		if v.Proven && !strings.EqualFold(machine, a.MachineID) {
			t.Errorf("proven for machine %q", machine)
		}
	})
}
