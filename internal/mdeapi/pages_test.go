package mdeapi_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/mdeapi"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
)

// TestPages goes from page to page by the links in the answers, as a client that
// knows nothing but them, while actions are created and end.
func TestPages(t *testing.T) {
	const pageSize = 4
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var store *memstore.Store // another one in each turn, of which both servers tell
	var fleet []cordon.Machine
	begin := func(t *rapid.T) {
		store, fleet = &memstore.Store{Now: func() time.Time { return now }}, nil
		for i := range 12 {
			m := machine(byte(i), []string{"", "b.example.org", "a.example.org", "ü.example.org"}[i%4], "Debian", "12", 0)
			if _, err := store.EnrolMachine(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			fleet = append(fleet, m)
		}
	}
	start := func(size int) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mdeapi.NewWithPages(mdeapi.Config{
				Service: &cordon.Service{Store: store},
				Authenticate: func(*http.Request) (cordon.Caller, error) {
					return cordon.Caller{Permissions: cordon.AllPermissions()}, nil
				},
				Now: func() time.Time { return now }, NewID: func() string { return "target" }, Log: slog.New(slog.DiscardHandler),
				Base: func(r *http.Request) string { return "http://" + r.Host },
			}, size).ServeHTTP(w, r)
		}))
		t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	}
	small, large := start(pageSize), start(cordon.MaxTop)
	type page struct {
		Context string `json:"@odata.context"`
		Count   *int   `json:"@odata.count"`
		Next    string `json:"@odata.nextLink"`
		Value   []map[string]any
	}
	get := func(t *rapid.T, address, link string) (p page) {
		t.Helper()
		u, err := url.Parse(link)
		if err != nil || u.String() != link {
			t.Fatalf("the link %q is %q as a URL: %v", link, u, err)
		}
		r := must(http.NewRequest("GET", link, nil))
		r.URL.Host = address // where the names of Defender lead
		a := must(http.DefaultClient.Do(r))
		defer a.Body.Close()
		body := must(io.ReadAll(a.Body))
		if err := json.Unmarshal(body, &p); err != nil || a.StatusCode != http.StatusOK {
			t.Fatalf("GET %s: %s, %v: %s", link, a.Status, err, body)
		}
		return p
	}
	ids, created := 0, now
	create := func(t *rapid.T) {
		ids++
		created = created.Add(time.Duration(rapid.IntRange(0, 1).Draw(t, "later")) * time.Second)
		_, err := store.CreateAction(t.Context(), cordon.ActionDraft{
			ID: cordon.ActionID(fmt.Sprintf("%08x-0000-4000-8000-000000000000", ids*2654435761%(1<<32))), Type: cordon.RestrictCodeExecution,
			Machine: rapid.SampledFrom(fleet).Draw(t, "machine").ID, Requestor: rapid.SampledFrom([]string{"a", "b", "ü & co"}).Draw(t, "requestor"), Created: created,
		})
		if err != nil && cordon.KindOf(err) != cordon.Conflict {
			t.Fatal(err)
		}
	}
	end := func(t *rapid.T) {
		all, _, err := store.Actions(t.Context(), cordon.Query{Filter: cordon.Compare{Field: cordon.FieldStatus, Value: string(cordon.Pending)}})
		if err != nil || len(all) == 0 {
			return
		}
		id := rapid.SampledFrom(all).Draw(t, "ends").ID
		if _, err := store.ChangeAction(t.Context(), id, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
			a.Status = cordon.Succeeded
			return a, nil, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		begin(t)
		host := rapid.SampledFrom([]string{"api.securitycenter.microsoft.com", "us.api.security.microsoft.com", "127.0.0.1:8443"}).Draw(t, "host")
		prefix := rapid.SampledFrom([]string{"/api", "/api/v1.0"}).Draw(t, "prefix")
		set := rapid.SampledFrom([]string{"machineactions", "machines"}).Draw(t, "set")
		filters := map[string][]string{
			"machineactions": {"", "status eq 'Pending'", "status eq 'Succeeded'", "requestor eq 'ü & co' or requestor eq 'a'", "creationDateTimeUtc ge 2026-11-21T12:00:05Z"},
			"machines":       {"", "computerDnsName ne null", "healthStatus eq 'Inactive' or startswith(computerDnsName,'ü')"},
		}
		orders := map[string][]string{
			"machineactions": {"", "creationDateTimeUtc", "requestor desc,id", "machineId,creationDateTimeUtc desc"},
			"machines":       {"", "computerDnsName", "computerDnsName desc", "healthStatus desc,computerDnsName"},
		}
		filter, order := rapid.SampledFrom(filters[set]).Draw(t, "filter"), rapid.SampledFrom(orders[set]).Draw(t, "order")
		var params []string
		add := func(name, value string) {
			if value != "" {
				params = append(params, name+"="+url.QueryEscape(value))
			}
		}
		add("$filter", filter)
		add("%24orderby", order)
		count, top := rapid.Bool().Draw(t, "count"), 0
		if count {
			add("$count", "true")
		}
		if rapid.Bool().Draw(t, "top") {
			top = rapid.IntRange(1, 15).Draw(t, "rows")
			add("$top", fmt.Sprint(top))
		}
		members := []string{"id"}
		if rapid.Bool().Draw(t, "select") {
			add("$select", "id")
		} else {
			members = nil
		}
		skip := rapid.SampledFrom([]int{0, 0, 2}).Draw(t, "skip")
		if skip > 0 {
			add("$skip", fmt.Sprint(skip))
		}
		for range rapid.IntRange(0, 25).Draw(t, "actions") {
			create(t)
			end(t)
		}
		// What is to be seen: all that is there before and after.
		whole := func() (all []string) {
			kept := slices.DeleteFunc(slices.Clone(params), func(p string) bool { return strings.HasPrefix(p, "$top") || strings.HasPrefix(p, "$skip") })
			for _, v := range get(t, large, "http://"+host+"/api/"+set+"?"+strings.Join(kept, "&")).Value {
				all = append(all, v["id"].(string))
			}
			return all
		}
		before, seen := whole(), []string(nil)
		link := "http://" + host + prefix + "/" + set
		if len(params) > 0 {
			link += "?" + strings.Join(params, "&")
		}
		first := link
		for link != "" {
			p := get(t, small, link)
			if !strings.HasPrefix(p.Context, "http://"+host+prefix+"/$metadata#") || p.Next != "" && !strings.HasPrefix(p.Next, "http://"+host+prefix+"/"+set+"?") {
				t.Fatalf("%s: context %q, next %q", first, p.Context, p.Next)
			}
			if (p.Count != nil) != count || p.Count != nil && *p.Count != len(whole()) {
				t.Fatalf("%s: count %v", link, p.Count)
			}
			if len(p.Value) > pageSize || p.Next != "" && len(p.Value) < pageSize {
				t.Fatalf("%s: %d rows", link, len(p.Value))
			}
			for _, v := range p.Value {
				if members != nil && len(v) != len(members) {
					t.Fatalf("%s: not only the members %v: %v", link, members, v)
				}
				seen = append(seen, v["id"].(string))
			}
			if link = p.Next; link != "" {
				for range rapid.IntRange(0, 3).Draw(t, "changes") {
					create(t)
					end(t)
				}
			}
		}
		after := whole()
		if n := len(slices.Compact(slices.Sorted(slices.Values(seen)))); n != len(seen) {
			t.Fatalf("%s: rows come twice: %v", first, seen)
		}
		if top > 0 && len(seen) > top {
			t.Fatalf("%s: %d rows", first, len(seen))
		}
		if top > 0 || skip > 0 {
			return
		}
		for _, id := range before {
			if slices.Contains(after, id) && !slices.Contains(seen, id) {
				t.Fatalf("%s: %s was there all along, and on no page", first, id)
			}
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
