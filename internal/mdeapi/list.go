package mdeapi

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/odata"
)

// lister is [cordon.Service.Actions] or [cordon.Service.Machines].
type lister[T any] func(context.Context, cordon.Caller, cordon.Query) ([]T, int, error)

// read answers the query string of a call from a collection. If the caller did
// not limit the rows, or to more than one page can hold ([cordon.MaxTop]), and
// there are more, the page says where they are.
func read[T any](c *call, s cordon.Schema, list lister[T]) (cordon.Query, page[T], error) {
	q, err := odata.Parse(c.URL.RawQuery, s)
	if err != nil {
		return q, page[T]{}, err
	}
	unlimited := !q.HasTop
	if unlimited {
		q.Top, q.HasTop = cordon.MaxTop, true
	}
	var p page[T]
	if p.rows, p.count, err = list(c.Context(), c.caller, q); err != nil {
		return q, p, err
	}
	if len(p.rows) < cordon.MaxTop || !unlimited && q.Rest == 0 {
		return q, p, nil
	}
	behind := q
	behind.Skip, behind.Top, behind.Rest, behind.Count = q.Skip+len(p.rows), 1, 0, false
	more, _, err := list(c.Context(), c.caller, behind)
	if len(more) > 0 {
		p.next = c.base + c.URL.EscapedPath() + "?" + nextQuery(c.URL.RawQuery, behind.Skip, q.Rest)
	}
	return q, p, err
}

// nextQuery is a query string, as the client wrote it, with another $skip and $top.
func nextQuery(raw string, skip, top int) string {
	var params []string
	for param := range strings.SplitSeq(raw, "&") {
		name, _, _ := strings.Cut(param, "=")
		if decoded, err := url.QueryUnescape(name); err == nil {
			name = decoded
		}
		switch cordon.Fold(strings.TrimSpace(name)) {
		case "", "$skip", "$top":
		default:
			params = append(params, param)
		}
	}
	if top > 0 {
		params = append(params, "$top="+strconv.Itoa(top))
	}
	return strings.Join(append(params, "$skip="+strconv.Itoa(skip)), "&")
}
