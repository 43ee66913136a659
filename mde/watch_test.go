package mde

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// table is a list of actions that knows the three questions of a watch.
type table struct {
	rows []MachineAction
	cut  func() bool // whether to fail this request
}

func (s *table) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.cut() {
		refuse(w, 503, "", "")
		return
	}
	var since time.Time
	filter, open := strings.CutPrefix(r.URL.Query().Get("$filter"), "status eq 'Pending' or status eq 'InProgress'")
	if after, ok := strings.CutPrefix(filter, "lastUpdateDateTimeUtc ge "); ok {
		var err error
		if since, err = time.Parse(time.RFC3339Nano, after); err != nil {
			refuse(w, 400, "BadRequest", err.Error())
			return
		}
	}
	value := []MachineAction{}
	for _, a := range s.rows {
		if !a.LastUpdateDateTimeUTC.Before(since) && !(open && a.Ended()) {
			value = append(value, a)
		}
	}
	slices.SortStableFunc(value, func(a, b MachineAction) int { return a.LastUpdateDateTimeUTC.Compare(b.LastUpdateDateTimeUTC) })
	if r.URL.Query().Get("$top") == "1" && len(value) > 0 {
		value = value[len(value)-1:]
	}
	json.NewEncoder(w).Encode(map[string]any{"value": value})
}

// TestWatchMissesNothing lets actions come, change and end at random, some
// becoming visible late, with looks at random moments and short outages. What a
// watcher was told last of each action has to be what is true of it, and
// nothing may be told twice.
func TestWatchMissesNothing(t *testing.T) {
	s := new(table)
	_, c := newServer(t, s.ServeHTTP)
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		var hidden []MachineAction // decided but not yet visible
		outage := 0
		*s = table{cut: func() bool { outage--; return outage >= 0 }}
		change := func() {
			now = now.Add(time.Duration(rapid.IntRange(1, 1500).Draw(t, "ms")) * time.Millisecond)
			i := rapid.IntRange(0, len(s.rows)).Draw(t, "row")
			if i == len(s.rows) {
				a := MachineAction{ID: fmt.Sprint(len(s.rows) + len(hidden)), Status: Pending, CreationDateTimeUTC: now, LastUpdateDateTimeUTC: now}
				if rapid.Bool().Draw(t, "late") {
					hidden = append(hidden, a)
				} else {
					s.rows = append(s.rows, a)
				}
				return
			}
			if !s.rows[i].Ended() {
				s.rows[i].Status = rapid.SampledFrom([]string{InProgress, Succeeded, Failed}).Draw(t, "status")
				s.rows[i].LastUpdateDateTimeUTC = now
			}
		}
		for range rapid.IntRange(0, 5).Draw(t, "before") {
			change()
		}
		atStart := map[string]string{}
		for _, a := range s.rows {
			atStart[a.ID] = a.Status
		}
		looks := rapid.IntRange(1, 12).Draw(t, "looks")
		told := map[string]string{}
		done := errors.New("done")
		c.config.Sleep = func(_ context.Context, _ time.Duration) error {
			if looks--; looks < 0 {
				return done
			}
			s.rows, hidden = append(s.rows, hidden...), nil // less than overlap after its time
			if looks > 0 {
				for range rapid.IntRange(0, 2).Draw(t, "changes") {
					change()
				}
				outage = rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "outage")
			} else {
				outage = 0
			}
			return nil
		}
		for a, err := range c.WatchActions(t.Context()) {
			if err != nil {
				if !errors.Is(err, done) {
					t.Fatal(err)
				}
				break
			}
			if word := a.Status + a.LastUpdateDateTimeUTC.String(); told[a.ID] == word {
				t.Fatalf("told twice of %s: %s", a.ID, word)
			} else {
				told[a.ID] = word
			}
		}
		for _, a := range s.rows {
			want := a.Status + a.LastUpdateDateTimeUTC.String()
			wasEnded := MachineAction{Status: atStart[a.ID]}.Ended()
			if got := told[a.ID]; got != want && !wasEnded {
				t.Fatalf("of %s told %q, true is %q", a.ID, got, want)
			} else if wasEnded && got != "" {
				t.Fatalf("told of %s, which had ended before", a.ID)
			}
		}
	})
}
