package mde

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clock is a time that passes only when somebody sleeps.
type clock struct {
	mu    sync.Mutex
	now   time.Time
	slept []time.Duration
}

func newClock() *clock { return &clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.slept = append(c.slept, d)
	return context.Cause(ctx)
}

// server answers the token route itself and leaves the rest to a handler.
type server struct {
	*httptest.Server
	clock  *clock
	tokens atomic.Int64 // issued so far; the n-th is "token-n"
	life   string       // expires_in as JSON
}

func newServer(t *testing.T, api http.HandlerFunc) (*server, *Client) {
	t.Helper()
	s := &server{clock: newClock(), life: "3600"}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/tenant/oauth2/v2.0/token" {
			api(w, r)
			return
		}
		if r.FormValue("client_secret") != "secret" || r.FormValue("client_id") != "id" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != Scope {
			w.WriteHeader(401)
			io.WriteString(w, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1","error_codes":[7000215],"correlation_id":"c-1"}`)
			return
		}
		fmt.Fprintf(w, `{"token_type":"Bearer","expires_in":%s,"access_token":"token-%d"}`, s.life, s.tokens.Add(1))
	}))
	t.Cleanup(s.Close)
	return s, s.client(t, func(*Config) {})
}

func (s *server) client(t *testing.T, change func(*Config)) *Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	config := Config{BaseURL: s.URL, TenantID: "tenant", ClientID: "id", ClientSecret: "secret", RootCAs: roots,
		Now: s.clock.Now, Sleep: s.clock.Sleep, Jitter: func() float64 { return 0.5 }}
	change(&config)
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":{"code":%q,"message":%q,"target":"t-1"}}`, code, message)
}

func TestWireForm(t *testing.T) {
	for file, value := range map[string]any{"action.json": new(MachineAction), "fresh-action.json": new(MachineAction), "machine.json": new(Machine)} {
		want, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(want, value); err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(bytes.TrimSpace(want)) {
			t.Errorf("%s became\n%s", file, got)
		}
	}
}

func TestConfig(t *testing.T) {
	good := Config{BaseURL: "https://cordon.example.org", TenantID: "t", ClientID: "i", ClientSecret: "s"}
	for want, change := range map[string]func(*Config){
		"":                                  func(c *Config) {},
		"BaseURL is missing":                func(c *Config) { c.BaseURL = "" },
		"ClientSecret is missing":           func(c *Config) { c.ClientSecret = "" },
		"would send the secret unencrypted": func(c *Config) { c.BaseURL = "http://cordon.example.org" },
		"is not a plain https address":      func(c *Config) { c.BaseURL = "cordon.example.org" },
		"RootCAs has no effect":             func(c *Config) { c.RootCAs, c.HTTPClient = x509.NewCertPool(), new(http.Client) },
	} {
		c := good
		change(&c)
		_, err := New(c)
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	for _, loop := range []string{"http://127.0.0.1:8080", "http://[::1]:80", "http://localhost"} {
		c := good
		c.BaseURL = loop
		if _, err := New(c); err != nil {
			t.Errorf("%s: %v", loop, err)
		}
	}
}

func TestTokenIsKeptAndRenewedBeforeItExpires(t *testing.T) {
	var used []string
	s, c := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		used = append(used, r.Header.Get("Authorization"))
		io.WriteString(w, `{}`)
	})
	for _, after := range []time.Duration{0, 58 * time.Minute, 90 * time.Second, time.Minute} {
		s.clock.now = s.clock.now.Add(after)
		if _, err := c.GetAction(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := strings.Join(used, ","), "Bearer token-1,Bearer token-1,Bearer token-2,Bearer token-2"; got != want {
		t.Errorf("used %s, want %s", got, want)
	}
}

func TestManyCallersFetchOneToken(t *testing.T) {
	s, c := newServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{}`) })
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if _, err := c.GetAction(t.Context(), "a"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := s.tokens.Load(); n != 1 {
		t.Errorf("%d tokens were fetched", n)
	}
}

func TestQuotedLifeOfAToken(t *testing.T) {
	s, c := newServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{}`) })
	for life, good := range map[string]bool{`"3599"`: true, `0`: false, `-1`: false, `1e30`: false, `9000000000000`: false, `"soon"`: false} {
		s.life = life
		c.current = accessToken{}
		if _, err := c.GetAction(t.Context(), "a"); (err == nil) != good {
			t.Errorf("expires_in %s: %v", life, err)
		}
	}
}

func TestTokenNotAcceptedIsRenewedOnce(t *testing.T) {
	accept, posts, done := "Bearer token-1", 0, 0
	s, c := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != accept {
			posts++
			refuse(w, 401, CodeUnauthorized, "expired")
			return
		}
		done++
		w.WriteHeader(201)
		io.WriteString(w, `{"id":"a"}`)
	})
	restrict := func() error { _, err := c.Restrict(t.Context(), "m", "c"); return err }
	if err := restrict(); err != nil {
		t.Fatal(err)
	}
	accept = "Bearer token-2" // as after a restart with new keys
	if err := restrict(); err != nil || done != 2 || posts != 1 {
		t.Errorf("after the keys changed: %v, done %d, refused %d", err, done, posts)
	}
	accept = "nobody"
	var refused *Error
	if err := restrict(); !errors.As(err, &refused) || refused.StatusCode != 401 || s.tokens.Load() != 3 {
		t.Errorf("with no good token: %v after %d tokens", err, s.tokens.Load())
	}
}

func TestRefusedCredentials(t *testing.T) {
	s, _ := newServer(t, func(w http.ResponseWriter, r *http.Request) { t.Error("called without a token") })
	c := s.client(t, func(c *Config) { c.ClientSecret = "wrong" })
	_, err := c.GetMachine(t.Context(), "m")
	var refused *Error
	if !errors.Is(err, ErrNoToken) || !errors.As(err, &refused) {
		t.Fatal(err)
	}
	want := Error{StatusCode: 401, Code: "invalid_client", Message: "AADSTS7000215: Invalid client secret provided.", Target: "c-1"}
	if *refused != want {
		t.Errorf("got %+v", *refused)
	}
}

// TestSecretsStayAtOneOrigin has the server point elsewhere in every way it can.
func TestSecretsStayAtOneOrigin(t *testing.T) {
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s reached the other host with %q", r.Method, r.URL, r.Header.Get("Authorization"))
	}))
	defer other.Close()
	var asked []string
	s, c := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RequestURI())
		switch {
		case r.URL.Path != "/api/machines":
			http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
		case r.URL.Query().Get("$skip") == "":
			fmt.Fprintf(w, `{"value":[{"id":"1"}],"@odata.nextLink":%q}`, other.URL+"/api/machines?$skip=1")
		default:
			io.WriteString(w, `{"value":[{"id":"2"}]}`)
		}
	})
	c.http.Transport.(*http.Transport).TLSClientConfig.RootCAs.AddCert(other.Certificate())
	var ids []string
	for m, err := range c.ListMachines(t.Context(), ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, m.ID)
	}
	if fmt.Sprint(ids) != "[1 2]" || len(asked) != 2 {
		t.Errorf("listed %v with %v", ids, asked)
	}
	var refused *Error
	if _, err := c.Restrict(t.Context(), "m", "c"); !errors.As(err, &refused) || refused.StatusCode != 307 {
		t.Errorf("a redirected POST: %v", err)
	}
	redirecting := httptest.NewTLSServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer redirecting.Close()
	c = s.client(t, func(c *Config) { c.BaseURL, c.RootCAs, c.HTTPClient = redirecting.URL, nil, redirecting.Client() })
	if _, err := c.GetMachine(t.Context(), "m"); !errors.As(err, &refused) || refused.StatusCode != 307 {
		t.Errorf("a redirected token request: %v", err)
	}
}

func TestAuditLogEnds(t *testing.T) {
	var asked []string
	_, c := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Query().Encode())
		fmt.Fprint(w, `{"value":[],"next":7}`)
	})
	var last error
	for _, err := range c.AuditLog(t.Context(), AuditOptions{Top: 5}) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), "lead back") || len(asked) != 2 || asked[0] != "top=5" || asked[1] != "before=7&top=5" {
		t.Errorf("%v, asked %q", last, asked)
	}
}

func TestListing(t *testing.T) {
	var asked []string
	_, c := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Query().Encode())
		if r.URL.Path == "/api/machines" {
			fmt.Fprintf(w, `{"value":[],"@odata.nextLink":"https://x.invalid/api/machines"}`)
			return
		}
		fmt.Fprintf(w, `{"value":[{"id":"a"},{"id":"b"},{"id":"c"}],"@odata.nextLink":"/api/machineactions?$skip=%d"}`, 3*len(asked))
	})
	n := 0
	for _, err := range c.ListActions(t.Context(), ListOptions{Filter: Equal([2]string{"status", ""}, [2]string{"type", "a'b"}), Top: 5, OrderBy: "id asc"}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 5 || len(asked) != 2 || asked[0] != "%24filter=type+eq+%27a%27%27b%27&%24orderby=id+asc&%24top=5" {
		t.Errorf("%d actions with %q", n, asked)
	}
	var last error
	for _, err := range c.ListMachines(t.Context(), ListOptions{}) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), "lead back") {
		t.Errorf("a circle of pages: %v", last)
	}
}

func TestFindByTag(t *testing.T) {
	var asked []string
	_, c := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path+"?"+r.URL.Query().Encode())
		next := ""
		if len(asked) == 1 {
			next = `,"@odata.nextLink":"https://x.invalid/api/machines/findbytag?tag=a&$skip=1"`
		}
		fmt.Fprintf(w, `{"value":[{"id":"%d","machineTags":["a&b"]}]%s}`, len(asked), next)
	})
	var ids []string
	for m, err := range c.FindMachinesByTag(t.Context(), "a&b", true) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, m.ID+m.MachineTags[0])
	}
	want := "[/api/machines/findbytag?tag=a%26b&useStartsWithFilter=true /api/machines/findbytag?%24skip=1&tag=a]"
	if fmt.Sprint(asked) != want || fmt.Sprint(ids) != "[1a&b 2a&b]" {
		t.Errorf("%v with %v", ids, asked)
	}
}

func TestThrottling(t *testing.T) {
	calls, wait, until := 0, "7", 3
	s, c := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls < until {
			w.Header().Set("Retry-After", wait)
			refuse(w, 429, CodeTooManyRequests, "quota")
			return
		}
		io.WriteString(w, `{"id":"a"}`)
	})
	if _, err := c.GetAction(t.Context(), "a"); err != nil || fmt.Sprint(s.clock.slept) != "[7s 7s]" {
		t.Errorf("GET: %v after %v", err, s.clock.slept)
	}
	calls, until = 0, 100
	var refused *Error
	if _, err := c.GetAction(t.Context(), "a"); !errors.As(err, &refused) || calls != 1+maxRetries {
		t.Errorf("GET that is always throttled: %v after %d calls", err, calls)
	}
	calls = 0
	if _, err := c.Restrict(t.Context(), "m", "c"); !errors.As(err, &refused) || calls != 1 || refused.RetryAfter != 7*time.Second {
		t.Errorf("POST: %v after %d calls", err, calls)
	}
	calls, wait = 0, "3600"
	if _, err := c.GetAction(t.Context(), "a"); !errors.As(err, &refused) || calls != 1 {
		t.Errorf("GET that is told to wait an hour: %v after %d calls", err, calls)
	}
}

func TestUnreachable(t *testing.T) {
	s, c := newServer(t, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	var lost *UnreachableError
	if _, err := c.Restrict(t.Context(), "m", "c"); !errors.As(err, &lost) || !lost.Sent {
		t.Errorf("connection cut: %#v", err)
	}
	s.Close()
	if _, err := c.Restrict(t.Context(), "m", "c"); !errors.As(err, &lost) || lost.Sent {
		t.Errorf("server gone: %#v", err)
	}
	stopped, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := c.Restrict(stopped, "m", "c"); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestUnknownCertificate(t *testing.T) {
	s, _ := newServer(t, func(w http.ResponseWriter, r *http.Request) { t.Error("called") })
	c := s.client(t, func(c *Config) { c.RootCAs = x509.NewCertPool() })
	_, err := c.WaitAction(t.Context(), "a", WaitOptions{})
	var lost *UnreachableError
	if !errors.As(err, &lost) || len(s.clock.slept) != 0 {
		t.Errorf("got %v after %v", err, s.clock.slept)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	status := 200
	_, c := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error":{"message":%q}}`, strings.Repeat("x", 2000))
	})
	c.limit = 1000
	if _, err := c.GetAction(t.Context(), "a"); err != nil && !strings.Contains(err.Error(), "longer than 1000 bytes") || err == nil {
		t.Errorf("got %v", err)
	}
	c.limit = maxBody
	if _, err := c.GetAction(t.Context(), "a"); err != nil {
		t.Errorf("got %v", err)
	}
}

// TestPathsCannotBeEscaped gives names that would mean another route.
func TestPathsCannotBeEscaped(t *testing.T) {
	var path string
	_, c := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.EscapedPath()
		io.WriteString(w, `{"id":"a"}`)
	})
	for _, bad := range []string{"", " ", ".", "..", " .. "} {
		var name *NameError
		if _, err := c.Restrict(t.Context(), bad, "c"); !errors.As(err, &name) || path != "" {
			t.Errorf("%q: %v, sent %s", bad, err, path)
		}
	}
	if _, err := c.Restrict(t.Context(), "../a/b?c#d", "c"); err != nil || path != "/api/machines/..%2Fa%2Fb%3Fc%23d/restrictCodeExecution" {
		t.Errorf("sent %s: %v", path, err)
	}
}

func TestRoutes(t *testing.T) {
	var got string
	_, c := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.Method, r.URL.Path, r.Header.Get("Content-Type"), body))
		if strings.HasSuffix(r.URL.Path, "/order") {
			io.WriteString(w, "aa.bb.cc\n")
			return
		}
		io.WriteString(w, `{"id":"a","generation":4,"observed":{"mode":"enforce","inForce":true},"entries":[{"seq":1}]}`)
	})
	ctx := t.Context()
	for want, call := range map[string]func() error{
		`GET /api/machines/m`: func() error { _, err := c.GetMachine(ctx, "m"); return err },
		`POST /api/machines/m/restrictCodeExecution application/json {"Comment":"c"}`:   func() error { _, err := c.Restrict(ctx, "m", "c"); return err },
		`POST /api/machines/m/unrestrictCodeExecution application/json {"Comment":"c"}`: func() error { _, err := c.Unrestrict(ctx, "m", "c"); return err },
		`GET /api/machineactions/a`:                             func() error { _, err := c.GetAction(ctx, "a"); return err },
		`POST /api/machineactions/a/cancel application/json {}`: func() error { _, err := c.CancelAction(ctx, "a", ""); return err },
		`GET /cordon/v1/machines/m`: func() error {
			s, err := c.MachineState(ctx, "m")
			if !s.Observed.Restricted() || s.Generation != 4 {
				t.Errorf("read %+v", s)
			}
			return err
		},
		`GET /api/machines/findbyip(ip='192.0.2.1''',timestamp=2026-01-01T11:00:00.5Z)`: func() error {
			_, err := c.FindMachinesByIP(ctx, "192.0.2.1'", time.Date(2026, 1, 1, 12, 0, 0, 5e8, time.FixedZone("", 3600)))
			return err
		},
		`POST /api/machines/m/tags application/json {"Value":"t","Action":"Add"}`:     func() error { _, err := c.AddTag(ctx, "m", "t"); return err },
		`POST /api/machines/m/tags application/json {"Value":"t","Action":"Remove"}`:  func() error { _, err := c.RemoveTag(ctx, "m", "t"); return err },
		`POST /api/machines/m/setDeviceValue application/json {"DeviceValue":"High"}`: func() error { _, err := c.SetDeviceValue(ctx, "m", HighValue); return err },
		`PATCH /api/machines/m application/json {"machineTags":[],"deviceValue":"Low"}`: func() error {
			low := LowValue
			m, err := c.UpdateMachine(ctx, "m", MachineUpdate{MachineTags: &[]string{}, DeviceValue: &low})
			if m.ID != "a" {
				t.Errorf("read %+v", m)
			}
			return err
		},
		`POST /api/machines/AddOrRemoveTagForMultipleMachines application/json {"Value":"t","Action":"Add","MachineIds":["m","n"]}`: func() error {
			_, err := c.AddTagToMany(ctx, []string{"m", "n"}, "t")
			return err
		},
		`POST /api/machines/AddOrRemoveTagForMultipleMachines application/json {"Value":"t","Action":"Remove","MachineIds":["m"]}`: func() error {
			_, err := c.RemoveTagFromMany(ctx, []string{"m"}, "t")
			return err
		},
		`GET /cordon/v1/actions/a/evidence`: func() error { _, err := c.Evidence(ctx, "a"); return err },
		`POST /cordon/v1/actions/a/order`: func() error {
			order, err := c.SignedOrder(ctx, "a")
			if order != "aa.bb.cc" {
				t.Errorf("read order %q", order)
			}
			return err
		},
	} {
		if err := call(); err != nil || got != want {
			t.Errorf("want %s\n got %s, %v", want, got, err)
		}
	}
}

func TestSignedOrderHasTheFormOfOne(t *testing.T) {
	_, c := newServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>sign in</html>") })
	if order, err := c.SignedOrder(t.Context(), "a"); err == nil {
		t.Errorf("took %q", order)
	}
}
