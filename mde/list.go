package mde

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"strconv"
	"strings"
)

// ListOptions says what to list.
type ListOptions struct {
	Filter  string // OData $filter; put values in it through [Quote]
	OrderBy string // OData $orderby; empty: the server's order
	Top     int    // at most so many; 0: all
}

// pageSize is the longest page that the API serves (Defender contract 9).
const pageSize = 10_000

// Quote makes an OData string literal of s, for a filter.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// Equal makes a filter that asks for all the given pairs of property and value,
// leaving out those with an empty value.
func Equal(pairs ...[2]string) string {
	var terms []string
	for _, p := range pairs {
		if p[1] != "" {
			terms = append(terms, p[0]+" eq "+Quote(p[1]))
		}
	}
	return strings.Join(terms, " and ")
}

// list fetches page after page while the loop wants more.
func list[T any](ctx context.Context, c *Client, path string, o ListOptions) iter.Seq2[T, error] {
	query := url.Values{}
	if o.Filter != "" {
		query.Set("$filter", o.Filter)
	}
	if o.Top > 0 && o.Top <= pageSize {
		query.Set("$top", strconv.Itoa(o.Top))
	}
	if o.OrderBy != "" {
		query.Set("$orderby", o.OrderBy)
	}
	return pages[T](ctx, c, c.address(path, query), o.Top)
}

// pages is list from an address, and ends after top rows unless that is 0.
func pages[T any](ctx context.Context, c *Client, first string, top int) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		seen := 0
		visited := map[string]bool{}
		for address := first; address != ""; {
			var page struct {
				Value []T    `json:"value"`
				Next  string `json:"@odata.nextLink"`
			}
			if err := c.get(ctx, address, &page); err != nil {
				yield(none, err)
				return
			}
			for _, item := range page.Value {
				if !yield(item, nil) {
					return
				}
				if seen++; seen == top {
					return
				}
			}
			visited[address] = true
			next, err := c.rebase(page.Next)
			if err == nil && visited[next] {
				err = errors.New("read the server's answer: its pages lead back to one that was read before")
			}
			if err != nil {
				yield(none, err)
				return
			}
			address = next
		}
	}
}

// rebase puts path and query of a link onto this client's origin, so that the
// token goes nowhere else. An empty link stays empty.
func (c *Client) rebase(link string) (string, error) {
	if link == "" {
		return "", nil
	}
	u, err := url.Parse(link)
	if err != nil || u.Opaque != "" {
		return "", fmt.Errorf("read the server's answer: the link to the next page, %q, is not a URL", link)
	}
	u.Scheme, u.Host, u.User, u.Fragment = c.base.Scheme, c.base.Host, nil, ""
	if !strings.HasPrefix(u.Path, "/") {
		u.Path, u.RawPath = "/"+u.Path, ""
	}
	return u.String(), nil
}
