package hostile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/cordon-project/cordon"
)

// seed makes the attacks the same in every run.
const seed = 4

// TestHammer sends requests that were made up, eight at a time. What they leave
// in memory must not grow with their number.
func TestHammer(t *testing.T) {
	w := newWorld(t, asServed)
	a := w.attacker()
	attack := a.systematic()
	random := 400
	if testing.Short() {
		random = 60
	}
	for range random {
		attack = append(attack, a.random())
	}
	before := liveHeap()
	statuses := make(map[int]int)
	var mu sync.Mutex
	var all sync.WaitGroup
	requests := make(chan request)
	for range 8 {
		all.Go(func() {
			for r := range requests {
				status, err := w.send(r)
				if err != nil {
					t.Errorf("%v\n%.1000q", err, r.raw)
				}
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	for _, r := range attack {
		requests <- r
	}
	close(requests)
	all.Wait()
	w.honest()
	t.Logf("%d requests; answers by status (0: none): %v", len(attack), statuses)
	for _, status := range []int{200, 201, 204, 400, 401, 403, 404, 405, 431} {
		if statuses[status] == 0 {
			t.Errorf("no answer %d: the attack has become a harmless one", status)
		}
	}
	if kept := liveHeap() - before; kept > 16<<20 {
		t.Errorf("%d bytes are kept in memory", kept)
	}
}

// FuzzServer sends what the fuzzer makes up.
func FuzzServer(f *testing.F) {
	w := newWorld(f, asServed)
	a := w.attacker()
	for range 20 {
		f.Add(a.random().raw)
	}
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Add([]byte("GET / HTTP/9.9\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := w.send(request{raw: raw, spoiled: true}); err != nil {
			t.Fatal(err)
		}
	})
}

// attacker returns one that knows the machines, and an open and a cancelled
// action of two of them.
func (w *world) attacker() attacker {
	w.t.Helper()
	a := attacker{Rand: rand.New(rand.NewPCG(seed, seed)), w: w, machines: []string{"web-01.example.org", "WEB-01.example.org%20", "twin.example.org"}}
	ctx := context.Background()
	found, _, err := w.store.Machines(ctx, cordon.Query{})
	if err != nil {
		w.t.Fatal(err)
	}
	caller := cordon.Caller{ID: w.app.ClientID, DisplayName: "x", Permissions: cordon.AllPermissions(), Source: "PublicApi"}
	for _, m := range found {
		a.machines = append(a.machines, string(m.ID), m.DeviceID)
	}
	for _, m := range found[:2] {
		action, err := w.service.Request(ctx, caller, m, cordon.UnrestrictCodeExecution, "before the attack")
		if err != nil {
			w.t.Fatal(err)
		}
		a.actions = append(a.actions, string(action.ID))
	}
	if _, err := w.service.Cancel(ctx, caller, cordon.ActionID(a.actions[0]), ""); err != nil {
		w.t.Fatal(err)
	}
	return a
}

// send sends a request on a connection of its own and returns the status of the
// answer, 0 if there was none. It is an error if the server failed, if an answer
// is not what it should be, or if none came to a request that was one.
func (w *world) send(r request) (int, error) {
	c, err := w.dial()
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }() // the server may have
	// The server may answer and close before it has read everything.
	if _, err := c.Write(r.raw); err == nil && r.spoiled {
		_ = c.CloseWrite() // the server may be waiting for more
	}
	method := r.method
	if r.spoiled { // it may have become any other
		method, _, _ = strings.Cut(strings.TrimLeft(string(r.raw), "\r\n"), " ")
	}
	in := bufio.NewReader(c)
	for {
		answer, err := http.ReadResponse(in, &http.Request{Method: method})
		switch {
		case err != nil && r.spoiled:
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("no answer: %w", err)
		case answer.StatusCode == http.StatusContinue:
			continue
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil && !r.spoiled {
			return answer.StatusCode, fmt.Errorf("%s: the answer breaks off: %w", answer.Status, err)
		}
		return answer.StatusCode, judge(r, answer, body)
	}
}

// judge says what is wrong with an answer.
func judge(r request, answer *http.Response, body []byte) error {
	switch {
	case r.spoiled && answer.StatusCode == http.StatusServiceUnavailable:
		return nil // who stops sending in the middle counts as gone, and what was being done for him is given up
	case answer.StatusCode == http.StatusNotImplemented || answer.StatusCode == http.StatusHTTPVersionNotSupported:
		return nil // net/http about transfer codings and versions that there are not
	case answer.StatusCode >= 500:
		return fmt.Errorf("%s: %s", answer.Status, body)
	case bytes.Contains(body, []byte("goroutine ")), bytes.Contains(body, []byte(".go:")), bytes.Contains(body, []byte("SQL")):
		return fmt.Errorf("%s: the answer tells of the inside: %s", answer.Status, body)
	case answer.Header.Get("X-Injected") != "":
		return fmt.Errorf("%s: a header was injected", answer.Status)
	case r.spoiled || answer.StatusCode < 400 || len(body) == 0 || !strings.Contains(answer.Header.Get("Content-Type"), "json"):
		return nil
	}
	var problem struct {
		Error json.RawMessage
	}
	var members struct{ Code, Message, Target *string }
	if err := json.Unmarshal(body, &problem); err != nil || len(problem.Error) == 0 {
		return fmt.Errorf("%s: not an error's body: %s", answer.Status, body)
	}
	if !strings.HasPrefix(strings.ToLower(strings.TrimLeft(r.path, "/")), "api/") {
		return nil // other forms
	}
	if err := json.Unmarshal(problem.Error, &members); err != nil || members.Code == nil || members.Message == nil || members.Target == nil {
		return fmt.Errorf("%s: an error without code, message and target: %s", answer.Status, body)
	}
	return nil
}
