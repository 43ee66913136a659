package mde

import (
	"context"
	"errors"
	"iter"
	"net/url"
	"strconv"
	"time"

	"github.com/cordon-project/cordon"
)

// LogEntry is one line of the server's audit log, of what belongs to no machine
// action; see [cordon.AuditQuery].
type LogEntry struct {
	Seq     int64            `json:"seq"`
	At      time.Time        `json:"at"`
	Kind    cordon.AuditKind `json:"kind"`
	Machine string           `json:"machine"` // that it is about, or empty
	Action  string           `json:"action"`  // the release or machine action that it names, or empty
	Actor   string           `json:"actor"`
	Detail  string           `json:"detail"`
}

// AuditOptions say which part of the log is asked for.
type AuditOptions struct {
	Since time.Time          // zero: from the beginning on
	Kinds []cordon.AuditKind // nil: all
	Top   int                // the most entries; 0: all
}

// AuditLog reads the audit log, newest first, page after page while the loop
// wants more. It ends with the first error.
func (c *Client) AuditLog(ctx context.Context, o AuditOptions) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) {
		query := url.Values{}
		if !o.Since.IsZero() {
			query.Set("since", o.Since.UTC().Format(time.RFC3339Nano))
		}
		for _, k := range o.Kinds {
			query.Add("kind", string(k))
		}
		visited := map[int64]bool{}
		for seen := 0; ; {
			top := cordon.MaxAudit
			if o.Top > 0 {
				top = min(top, o.Top-seen)
			}
			query.Set("top", strconv.Itoa(top))
			var page struct {
				Value []LogEntry
				Next  int64
			}
			if err := c.get(ctx, c.address("/cordon/v1/audit", query), &page); err != nil {
				yield(LogEntry{}, err)
				return
			}
			for _, e := range page.Value {
				if !yield(e, nil) {
					return
				}
			}
			seen += len(page.Value)
			if page.Next == 0 || o.Top > 0 && seen >= o.Top {
				return
			}
			if visited[page.Next] {
				yield(LogEntry{}, errors.New("read the server's answer: its pages lead back to one that was read before"))
				return
			}
			visited[page.Next] = true
			query.Set("before", strconv.FormatInt(page.Next, 10))
		}
	}
}
