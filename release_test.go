package cordon_test

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
)

func drawRelease(t *rapid.T) cordon.Release {
	from := rapid.Int64Range(0, 1<<32-1).Draw(t, "from")
	return cordon.Release{
		Machine:    cordon.MachineID(rapid.StringMatching(`[0-9a-f]{40}`).Draw(t, "machine")),
		Generation: rapid.Uint64Range(0, 1<<48-1).Draw(t, "generation"),
		NotBefore:  time.Unix(from, 0).UTC(), Expires: time.Unix(rapid.Int64Range(from, 1<<32-1).Draw(t, "until"), 0).UTC(),
		Nonce: [4]byte([]byte(rapid.StringN(4, 4, 4).Draw(t, "nonce") + "    ")[:4]),
	}
}

func TestReleaseBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRelease(t)
		b, err := r.Bytes()
		if err != nil || len(b) != cordon.ReleaseSize {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		if got, ok := cordon.ParseRelease(b); !ok || got != r {
			t.Fatalf("%+v became %+v", r, got)
		}
		other := r
		other.Nonce[0]++
		if r.ID() == other.ID() || len(r.ID()) != 36 {
			t.Fatalf("ids %s, %s", r.ID(), other.ID())
		}
	})
	good := cordon.Release{Machine: cordon.MachineID(strings.Repeat("ab", 20)), NotBefore: time.Unix(1, 0), Expires: time.Unix(2, 0)}
	for name, change := range map[string]func(*cordon.Release){
		"machine":    func(r *cordon.Release) { r.Machine = "x" },
		"generation": func(r *cordon.Release) { r.Generation = 1 << 48 },
		"before":     func(r *cordon.Release) { r.NotBefore = time.Unix(-1, 0) },
		"order":      func(r *cordon.Release) { r.Expires = time.Unix(0, 0) },
		"far":        func(r *cordon.Release) { r.Expires = time.Unix(1<<32, 0) },
	} {
		r := good
		change(&r)
		if _, err := r.Bytes(); err == nil {
			t.Errorf("%s: encoded what does not fit", name)
		}
	}
}

func TestJudgeRelease(t *testing.T) {
	id, other := cordon.MachineID(strings.Repeat("ab", 20)), cordon.MachineID(strings.Repeat("cd", 20))
	from := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	r := cordon.Release{Machine: id, Generation: 5, NotBefore: from, Expires: from.Add(time.Hour)}
	for name, c := range map[string]struct {
		id       cordon.MachineID
		standing cordon.Standing
		at       time.Time
		want     string // "": it is taken
	}{
		"same generation":  {id, cordon.Standing{Generation: 5, Action: "a5"}, from, ""},
		"older generation": {id, cordon.Standing{Generation: 2, Action: "a2"}, from.Add(time.Hour - 1), ""},
		"failed before":    {id, cordon.Standing{Generation: 5, Action: r.ID(), Outcome: cordon.ReportFailed}, from, ""},
		"newer generation": {id, cordon.Standing{Generation: 6, Action: "a6"}, from, "generation 6 is in force"},
		"another machine":  {other, cordon.Standing{Generation: 5}, from, "is for machine " + string(id)},
		"replayed":         {id, cordon.Standing{Generation: 5, Action: r.ID(), Outcome: cordon.ReportSucceeded}, from, "has been used already"},
		"too early":        {id, cordon.Standing{Generation: 5}, from.Add(-1), "not valid before 2026-11-21T12:00:00Z"},
		"expired":          {id, cordon.Standing{Generation: 5}, from.Add(time.Hour), "expired at 2026-11-21T13:00:00Z"},
	} {
		verdict, why := cordon.JudgeRelease(c.id, c.standing, r, c.at)
		if (verdict == cordon.Begin) != (c.want == "") || !strings.Contains(why, c.want) {
			t.Errorf("%s: %v, %q", name, verdict, why)
		}
	}
}

func TestServiceRelease(t *testing.T) {
	var store memstore.Store
	key, public := newReleaseKey()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	s := &cordon.Service{Store: &store, Now: func() time.Time { return now }, NewID: func() string { return "id" },
		SealRelease: func(r cordon.Release) (string, error) { return seal.Release(r, key) }}
	m := cordon.Machine{ID: cordon.IDOfKey(public), Generation: 7}
	if _, err := store.EnrolMachine(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	admin := cordon.Caller{ID: "admin", Permissions: []cordon.Permission{cordon.Administer}}
	for name, c := range map[string]struct {
		caller  cordon.Caller
		valid   time.Duration
		comment string
		kind    cordon.Kind
	}{
		"a responder":  {cordon.Caller{Permissions: []cordon.Permission{cordon.MachineRestrict}}, time.Hour, "why", cordon.Forbidden},
		"no reason":    {admin, time.Hour, " ", cordon.Invalid},
		"too short":    {admin, time.Second, "why", cordon.Invalid},
		"too long":     {admin, cordon.MaxRelease + 1, "why", cordon.Invalid},
		"not a text":   {admin, time.Hour, "\xff", cordon.Invalid},
		"negative":     {admin, -time.Hour, "why", cordon.Invalid},
		"just as long": {admin, cordon.MaxRelease, "why", cordon.Internal},
	} {
		_, jws, err := s.Release(t.Context(), c.caller, m, c.valid, c.comment)
		if cordon.KindOf(err) != c.kind || (err == nil) != (jws != "") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if log := store.AuditLog(); len(log) != 2 { // enrolled, and the one that succeeded
		t.Fatalf("audit: %+v", log)
	}
	r, jws, err := s.Release(t.Context(), admin, m, time.Hour, "locked out")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := seal.OpenRelease(jws, public); err != nil || got != r || got.Generation != 7 || !got.Expires.Equal(now.Add(time.Hour)) {
		t.Errorf("%+v, %v", got, err)
	}
	report := cordon.Report{Machine: m.ID, Action: r.ID(), Generation: 7, Type: cordon.BreakGlass, State: cordon.ReportSucceeded,
		Observed: cordon.Observed{Generation: 7, Action: r.ID(), Order: cordon.BreakGlass, Mode: cordon.ModeOff}}
	for range 2 { // once is enough, twice does no harm
		if _, err := s.Report(t.Context(), m.ID, report, "evidence"); err != nil {
			t.Fatal(err)
		}
	}
	log, err := s.ReleaseLog(t.Context(), soar, r.ID())
	if err != nil || len(log) != 2 || log[0].Kind != cordon.AuditRelease || log[0].Actor != "admin" || log[1].Kind != cordon.AuditReleased || log[1].Evidence != "evidence" {
		t.Errorf("%+v, %v", log, err)
	}
	if m, err := store.Machine(t.Context(), m.ID); err != nil || m.Observed.Order != cordon.BreakGlass {
		t.Errorf("the machine's view: %+v, %v", m.Observed, err)
	}
	if _, err := s.ReleaseLog(t.Context(), soar, "a"); cordon.KindOf(err) != cordon.NotFound {
		t.Errorf("unknown: %v", err)
	}
}

func newReleaseKey() (ed25519.PrivateKey, ed25519.PublicKey) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	return key, key.Public().(ed25519.PublicKey)
}
