package mde

import (
	"context"
	"iter"
	"time"
)

// overlap is how far back a look for changes reaches behind the newest one
// known: changes become visible in another order than that of their times.
const overlap = 10 * time.Second

// WatchActions yields the open machine actions, oldest first, and then each new
// one and each change of one as it comes, until the loop is left. The loop ends
// with an error: the context's cause, or that of the server; an outage is
// waited out for a while. Of several changes between two looks (every 2 s) only the
// last is seen.
func (c *Client) WatchActions(ctx context.Context) iter.Seq2[MachineAction, error] {
	return func(yield func(MachineAction, error) bool) {
		w := watch{client: c, seen: map[string]MachineAction{}}
		for look, failures := w.begin, 0; ; {
			news, err := look(ctx)
			switch {
			case err == nil:
				look, failures = w.changes, 0
			case ctx.Err() != nil:
				err = context.Cause(ctx)
				fallthrough
			case !passing(err) || failures == maxOutage:
				yield(MachineAction{}, err)
				return
			default:
				failures++
			}
			for _, a := range news {
				if !yield(a, nil) {
					return
				}
			}
			if err := c.config.Sleep(ctx, c.jitter(lastPause)); err != nil {
				yield(MachineAction{}, err)
				return
			}
		}
	}
}

// watch knows which changes were seen. Times are the server's alone.
type watch struct {
	client *Client
	newest time.Time                // change that was seen
	seen   map[string]MachineAction // as last seen, of those that changed since newest less overlap
}

// begin finds out where the changes begin, and returns the open actions.
func (w *watch) begin(ctx context.Context) ([]MachineAction, error) {
	if _, err := w.note(ctx, ListOptions{OrderBy: "lastUpdateDateTimeUtc desc", Top: 1}); err != nil {
		return nil, err
	}
	// What changed within the overlap is not news either.
	if _, err := w.changes(ctx); err != nil {
		return nil, err
	}
	open, err := collect(w.client.ListActions(ctx, ListOptions{
		Filter:  "status eq 'Pending' or status eq 'InProgress'",
		OrderBy: "creationDateTimeUtc asc",
	}))
	for _, a := range open {
		w.seen[a.ID] = a
	}
	return open, err
}

// changes returns what is new since the last look.
func (w *watch) changes(ctx context.Context) ([]MachineAction, error) {
	o := ListOptions{OrderBy: "lastUpdateDateTimeUtc asc"}
	if !w.newest.IsZero() {
		o.Filter = "lastUpdateDateTimeUtc ge " + w.newest.Add(-overlap).UTC().Format(time.RFC3339Nano)
	}
	return w.note(ctx, o)
}

func (w *watch) note(ctx context.Context, o ListOptions) ([]MachineAction, error) {
	all, err := collect(w.client.ListActions(ctx, o))
	if err != nil {
		return nil, err
	}
	var news []MachineAction
	for _, a := range all {
		if b, ok := w.seen[a.ID]; !ok || b.Status != a.Status || !b.LastUpdateDateTimeUTC.Equal(a.LastUpdateDateTimeUTC) {
			news = append(news, a)
			w.seen[a.ID] = a
		}
		if a.LastUpdateDateTimeUTC.After(w.newest) {
			w.newest = a.LastUpdateDateTimeUTC
		}
	}
	for id, a := range w.seen {
		if a.LastUpdateDateTimeUTC.Before(w.newest.Add(-overlap)) {
			delete(w.seen, id)
		}
	}
	return news, nil
}

// collect returns the whole list, or none of it.
func collect[T any](seq iter.Seq2[T, error]) ([]T, error) {
	var all []T
	for item, err := range seq {
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}
