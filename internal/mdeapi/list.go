package mdeapi

import (
	"context"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/odata"
)

// lister is [cordon.Service.Actions] or [cordon.Service.Machines].
type lister[T any] func(context.Context, cordon.Caller, cordon.Query) ([]T, cordon.Listing, error)

// read answers the query string of a call from a collection. If the caller did
// not limit the rows, or to more than one page can hold (most, at most
// [cordon.MaxTop]), and there are more, the page says where they are.
func read[T any](c *call, s cordon.Schema, most int, list lister[T]) (cordon.Query, page[T], error) {
	q, err := odata.Parse(c.URL.RawQuery, s)
	if err != nil {
		return q, page[T]{}, err
	}
	unlimited := !q.HasTop
	if all := q.Top + q.Rest; unlimited || all > most {
		q.Top, q.HasTop, q.Rest = most, true, max(0, all-most)
	}
	rows, l, err := list(c.Context(), c.caller, q)
	p := page[T]{rows: rows, count: l.Count}
	if l.Next != nil && (unlimited || q.Rest > 0) {
		p.next = c.base + c.URL.EscapedPath() + "?" + odata.Next(c.URL.RawQuery, l.Next, q.Rest)
	}
	return q, p, err
}
