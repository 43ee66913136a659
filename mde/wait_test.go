package mde

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// script serves an action whose looks go as the words say: a status, or a
// number for an HTTP error, or "cut" for an answer that breaks off. The last repeats.
func script(t *testing.T, words ...string) (*server, *Client, *int) {
	looks := new(int)
	s, c := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		word := words[min(*looks, len(words)-1)]
		*looks++
		switch status := 0; {
		case word == "cut":
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "{")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		default:
			if n, _ := fmt.Sscan(word, &status); n == 1 {
				refuse(w, status, "", "")
				return
			}
			fmt.Fprintf(w, `{"id":"a","status":%q}`, word)
		}
	})
	return s, c, looks
}

func TestWaitLooksSoonThenSeldom(t *testing.T) {
	s, c, _ := script(t, Pending, Pending, Pending, InProgress, Pending, Pending, Pending, Pending, Pending, Pending, "Unheard", Pending, Succeeded)
	var seen []string
	a, err := c.WaitAction(t.Context(), "a", WaitOptions{Each: func(a MachineAction, err error) { seen = append(seen, a.Status) }})
	if err != nil || a.Status != Succeeded || len(seen) != 13 || seen[3] != InProgress {
		t.Fatalf("ended %v %v, seen %v", a.Status, err, seen)
	}
	want := firstPause
	for i, d := range s.clock.slept { // the jitter is 0.5
		if d != want*3/4 {
			t.Errorf("pause %d is %v, want %v", i, d, want*3/4)
		}
		want = min(want*3/2, lastPause)
	}
	if want != lastPause {
		t.Error("the script is too short to see the longest pause")
	}
}

func TestWaitGivesUp(t *testing.T) {
	s, c, _ := script(t, Pending)
	a, err := c.WaitAction(t.Context(), "a", WaitOptions{Timeout: 10 * time.Second})
	if !errors.Is(err, ErrStillOpen) || a.Status != Pending {
		t.Errorf("got %v, %v", a.Status, err)
	}
	if waited := s.clock.now.Sub(newClock().now); waited != 10*time.Second {
		t.Errorf("waited %v", waited)
	}
}

// TestWaitIsCutOff has a server that accepts and never answers.
func TestWaitIsCutOff(t *testing.T) {
	hang := make(chan struct{})
	_, c := newServer(t, func(w http.ResponseWriter, r *http.Request) { <-hang })
	defer close(hang)
	if _, err := c.WaitAction(t.Context(), "a", WaitOptions{Timeout: 50 * time.Millisecond}); !errors.Is(err, ErrStillOpen) {
		t.Errorf("got %v", err)
	}
}

func TestWaitOutlastsARestart(t *testing.T) {
	_, c, looks := script(t, Pending, "cut", "503", "cut", "502", Pending, "cut", Failed)
	var passed []error
	a, err := c.WaitAction(t.Context(), "a", WaitOptions{Each: func(_ MachineAction, err error) {
		if err != nil {
			passed = append(passed, err)
		}
	}})
	if err != nil || a.Status != Failed || len(passed) != 5 || *looks != 8 {
		t.Errorf("ended %v %v after %d looks, waited out %v", a.Status, err, *looks, passed)
	}
}

func TestWaitEndsWithAnOutage(t *testing.T) {
	_, c, looks := script(t, Pending, "503")
	a, err := c.WaitAction(t.Context(), "a", WaitOptions{})
	var refused *Error
	if !errors.As(err, &refused) || refused.StatusCode != 503 || a.Status != Pending || *looks != 2+maxOutage {
		t.Errorf("got %v, %v after %d looks", a.Status, err, *looks)
	}
}

func TestWaitEndsWhereNoPatienceHelps(t *testing.T) {
	for _, status := range []string{"403", "404", "400", "500"} {
		_, c, looks := script(t, status)
		if _, err := c.WaitAction(t.Context(), "a", WaitOptions{}); err == nil || *looks != 1 {
			t.Errorf("%s: %v after %d looks", status, err, *looks)
		}
	}
}

func TestWaitIsInterrupted(t *testing.T) {
	_, c, _ := script(t, Pending)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	a, err := c.WaitAction(ctx, "a", WaitOptions{Each: func(MachineAction, error) { cancel(why) }})
	if !errors.Is(err, why) || a.Status != Pending {
		t.Errorf("got %v, %v", a.Status, err)
	}
}
