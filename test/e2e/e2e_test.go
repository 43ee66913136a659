package e2e

import (
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMainJob(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		w := newWorld(t)
		w.startServer()
		w.startAgent()
		m := w.theMachine()
		w.mustBe(false)

		a := w.order(m, "restrictCodeExecution")
		if a.Status != "Pending" {
			t.Errorf("a fresh action is %s", a.Status)
		}
		if a = w.ended(a.ID); a.Status != "Succeeded" {
			t.Fatalf("got %+v\n%s", a, w.logOf("agent"))
		}
		w.mustBe(true)
		if out, errs, code := w.cordon("actions", "verify", a.ID); code != 0 {
			t.Errorf("the evidence does not verify (%d): %s %s", code, out, errs)
		}
		if out, _, code := w.cordon("machines", "show", m.ID); code != 0 || !strings.Contains(out, "fanotify") {
			t.Errorf("machines show (%d): %s", code, out)
		}

		// Restricted once more: a new action, which proves the state again.
		w.succeeds(m, "restrictCodeExecution")

		// The agent comes back without a server and enforces what it knows.
		w.server.stop(t)
		w.agent.stop(t)
		w.mustBe(false) // a limit of fanotify: without the agent the kernel lets go
		w.startAgent()
		w.until("the agent enforces without a server", func() bool { return !w.runs("untrusted") })
		w.mustBe(true)
		var status struct {
			Transport string
			Observed  struct{ InForce bool }
		}
		out, errs, code := w.cordon("agent", "status", "--json", "--data-dir", w.agentDir())
		if err := json.Unmarshal([]byte(out), &status); err != nil || code != 0 || status.Transport != "" || !status.Observed.InForce {
			t.Errorf("agent status (%d, %v): %s %s", code, err, out, errs)
		}
		w.startServer()

		w.succeeds(m, "unrestrictCodeExecution")
		w.mustBe(false)
	})
}

// An order carried by hand works once, for its machine, and the server hears of it.
func TestCarriedOrder(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		w := newWorld(t)
		m := w.restricted()
		w.agent.stop(t) // so that the order does not come by itself
		release := w.order(m, "unrestrictCodeExecution")
		file := filepath.Join(w.dir, "order.jws")
		if _, errs, code := w.cordon("actions", "order", release.ID, "-o", file); code != 0 {
			t.Fatalf("actions order (%d): %s", code, errs)
		}
		w.server.stop(t)
		w.startAgent()
		w.until("the agent enforces without a server", func() bool { return !w.runs("untrusted") })

		tampered := filepath.Join(w.dir, "tampered.jws")
		jws, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		jws[len(jws)/2] ^= 1
		if err := os.WriteFile(tampered, jws, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, errs, code := w.cordon("agent", "apply", "--data-dir", w.agentDir(), tampered); code != 7 || !strings.Contains(errs, "Refused") {
			t.Errorf("tampered order (%d): %s", code, errs)
		}
		w.mustBe(true)
		if out, errs, code := w.cordon("agent", "apply", "--data-dir", w.agentDir(), file); code != 0 || !strings.Contains(out, "Succeeded") {
			t.Errorf("carried order (%d): %s %s", code, out, errs)
		}
		w.mustBe(false)
		w.startServer()
		if a := w.ended(release.ID); a.Status != "Succeeded" {
			t.Errorf("the server knows it as %s", a.Status)
		}
		// Played again after a newer order it changes nothing.
		w.succeeds(m, "restrictCodeExecution")
		_, _, _ = w.cordon("agent", "apply", "--data-dir", w.agentDir(), file) // whatever it says, nothing may change
		w.mustBe(true)
	})
}

func TestExpiryAndCancel(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		w := newWorld(t)
		w.startServer()
		w.startAgent()
		m := w.theMachine()
		w.agent.stop(t)
		never := w.order(m, "unrestrictCodeExecution")
		var c action
		if status, text := w.call(http.MethodPost, "/api/machineactions/"+never.ID+"/cancel", `{"Comment":"changed my mind"}`, &c); status != http.StatusOK || c.Status != "Cancelled" {
			t.Errorf("cancel of an undelivered action: %d %s", status, text)
		}
		w.server.stop(t)
		w.ttl = time.Second
		w.startServer()
		late := w.order(m, "restrictCodeExecution")
		if a := w.ended(late.ID); a.Status != "TimeOut" || a.ErrorHResult != -2145844840 {
			t.Errorf("expired: %+v", a)
		}
		w.startAgent()
		w.until("the agent is back", func() bool { return strings.Count(w.logOf("agent"), "level=INFO") > 0 && w.connected() })
		w.mustBe(false)
		if status, text := w.call(http.MethodPost, "/api/machineactions/"+late.ID+"/cancel", "", nil); status != http.StatusBadRequest {
			t.Errorf("cancel of an ended action: %d %s", status, text)
		}
	})
}

func (w *world) connected() bool {
	var s struct{ Transport string }
	out, _, code := w.cordon("agent", "status", "--json", "--data-dir", w.agentDir())
	return code == 0 && json.Unmarshal([]byte(out), &s) == nil && s.Transport != ""
}

// The limits of calls hold, say when to try again, and survive a restart.
func TestLimits(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		w := newWorld(t)
		w.limited = true
		w.startServer()
		served := 0
		var resp *http.Response
		for range 200 {
			req, err := http.NewRequest(http.MethodGet, w.profile.URL+"/api/machines", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+w.token)
			if resp, err = w.client.Do(req); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close() // only read
			if resp.StatusCode != http.StatusOK {
				break
			}
			served++
		}
		wait, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		if served < 100 || resp.StatusCode != http.StatusTooManyRequests || err != nil || wait < 1 {
			t.Errorf("after %d calls: %s, Retry-After %q", served, resp.Status, resp.Header.Get("Retry-After"))
		}
		if status, text := w.call(http.MethodGet, "/api/machineactions", "", nil); status != http.StatusOK {
			t.Errorf("another API is limited too: %d %s", status, text)
		}
		w.server.stop(t)
		w.startServer()
		before := served
		for served = 0; served < 100; served++ {
			if status, _ := w.call(http.MethodGet, "/api/machines", "", nil); status == http.StatusTooManyRequests {
				break
			}
		}
		if served == 100 {
			t.Errorf("%d calls before the restart, and %d more after it", before, served)
		}
	})
}

func TestRefusedStarts(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		w := newWorld(t)
		w.startServer()
		for name, c := range map[string]struct {
			args []string
			want string
			code int
		}{
			"second server":  {[]string{"server", "--data-dir", filepath.Join(w.dir, "server"), "--listen", "127.0.0.1:0"}, "", 0},
			"bad token":      {[]string{"agent", "--server", w.profile.URL, "--ca-file", w.profile.CAFile, "--enrollment-token", "wrong", "--data-dir", filepath.Join(w.dir, "a2"), "--enforcer", "none"}, "enrolment token is not valid", 3},
			"no token":       {[]string{"agent", "--server", w.profile.URL, "--ca-file", w.profile.CAFile, "--data-dir", filepath.Join(w.dir, "a3"), "--enforcer", "none"}, "--enrollment-token", 3},
			"not https":      {[]string{"agent", "--server", "http://localhost", "--data-dir", filepath.Join(w.dir, "a4"), "--enforcer", "none"}, "https://", 2},
			"bad scope":      {[]string{"agent", "--server", w.profile.URL, "--data-dir", filepath.Join(w.dir, "a5"), "--scope", "everything"}, "scope", 2},
			"no agent there": {[]string{"agent", "status", "--data-dir", filepath.Join(w.dir, "nobody")}, "data-dir", 6},
		} {
			_, errs, code := w.cordon(c.args...)
			if code == 0 || c.code != 0 && code != c.code || !strings.Contains(errs, c.want) {
				t.Errorf("%s: exit code %d, %s", name, code, errs)
			}
		}
	})
}

// Server and agent crash again and again, at any moment. What was answered 201
// must end in one true terminal state.
func TestCrashes(t *testing.T) {
	confined(t, 18*time.Minute, func(t *testing.T) {
		rounds := 200
		if testing.Short() {
			rounds = 20
		}
		w := newWorld(t)
		m := w.restricted()
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		verbs := []string{"restrictCodeExecution", "unrestrictCodeExecution"}
		acknowledged := map[string]bool{}
		refused := 0
		for round := range rounds {
			posted := make(chan action, 1)
			go func() {
				var a action
				status, text := w.call(http.MethodPost, "/api/machines/"+m.ID+"/"+verbs[round%2], `{"Comment":"crash"}`, &a)
				if status != http.StatusCreated {
					a = action{Status: text}
				}
				posted <- a
			}()
			time.Sleep(time.Duration(r.IntN(40_000)) * time.Microsecond) // at any moment of the order's life: that is the subject
			which := r.IntN(3)
			if which != 1 {
				w.server.kill()
			}
			if which != 0 {
				w.agent.kill()
			}
			a := <-posted
			if a.ID != "" {
				acknowledged[a.ID] = true
			} else {
				refused++
			}
			if which != 1 {
				w.startServer()
			}
			if which != 0 {
				w.startAgent()
			}
			if a.ID == "" || r.IntN(4) > 0 { // otherwise the next crash comes while this one is being mended
				w.quiet()
			}
		}
		last := action{}
		for id := range acknowledged {
			a := w.ended(id)
			if a.Status != "Succeeded" && a.Status != "Cancelled" {
				t.Errorf("action %s of type %s ended %s: %s", id, a.Type, a.Status, w.reason(id))
			}
			if a.Status == "Succeeded" && a.CreationDateTimeUtc.After(last.CreationDateTimeUtc) {
				last = a
			}
		}
		t.Logf("%d rounds, %d acknowledged, %d not", rounds, len(acknowledged), refused)
		if len(acknowledged) < rounds/10 { // in one of three the server lives, and chance is not even
			t.Errorf("only %d of %d were acknowledged: the test tests little", len(acknowledged), rounds)
		}
		w.until("the machine is as its last action says", func() bool { return w.runs("untrusted") == (last.Type != "RestrictCodeExecution") })
		// Nothing else is open, and nothing that was acknowledged is missing from the list.
		var list struct{ Value []action }
		if status, text := w.call(http.MethodGet, "/api/machineactions", "", &list); status != http.StatusOK {
			t.Fatal(text)
		}
		listed := map[string]bool{}
		for _, a := range list.Value {
			if listed[a.ID] {
				t.Errorf("%s is listed twice", a.ID)
			}
			listed[a.ID] = true
			w.ended(a.ID)
		}
		for id := range acknowledged {
			if !listed[id] {
				t.Errorf("%s was acknowledged and is lost", id)
			}
		}
	})
}

// quiet waits until no action is open.
func (w *world) quiet() {
	w.Helper()
	var open struct{ Value []action }
	w.until("no action is open", func() bool {
		status, _ := w.call(http.MethodGet, "/api/machineactions?$top=1&$filter=status%20in%20('Pending','InProgress')", "", &open)
		return status == http.StatusOK && len(open.Value) == 0
	})
}

func (w *world) reason(id string) string {
	_, text := w.call(http.MethodGet, "/cordon/v1/actions/"+id+"/evidence", "", nil)
	return text
}
