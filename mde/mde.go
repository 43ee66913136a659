// Package mde is a client for the machine actions of Microsoft Defender for
// Endpoint's API as Cordon's server speaks it: list, find and label machines,
// restrict and unrestrict code execution, follow and cancel machine actions. The few routes
// that Cordon adds of its own are in [Client.MachineState], [Client.SignedOrder]
// and [Client.Evidence].
//
// # What it promises
//
// A [Client] is safe for concurrent use, starts no goroutine of its own and keeps nothing
// but one access token in memory, which it renews before it expires. The token
// and the secret go to the origin of Config.BaseURL and to no other: redirects
// are not followed, and a link to a next page that names another host is
// fetched from this one. A request that changes something is sent once; only
// when the server did not accept its token (401, so that nothing was done) is
// it sent again with a new one. GET is repeated when the server throttles it.
// Answers are read up to a limit.
//
// # Errors
//
// What the server refused is an [*Error]; no usable answer is an
// [*UnreachableError]; refused credentials have [ErrNoToken] in their chain; a name
// that cannot be asked for is a [*NameError].
package mde

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"
)

// The bounds of one call.
const (
	maxBody       = 256 << 20 // a full page of 10,000 actions, each with the longest comment in 4-byte characters
	maxErrorBody  = 64 << 10
	maxRetries    = 3           // of a GET that was throttled
	maxRetryAfter = time.Minute // a server that asks for more is not waited for
	callTimeout   = time.Minute // one request with its whole answer
)

// Config says whom to talk to and as whom. BaseURL, TenantID, ClientID and
// ClientSecret are required.
type Config struct {
	// BaseURL is the server's address without /api: https, or http to a loopback
	// address only, for the secret and the token travel in it.
	BaseURL      string
	TenantID     string
	ClientID     string
	ClientSecret string

	// RootCAs verifies the server's certificate; nil: the system's roots.
	RootCAs *x509.CertPool
	// HTTPClient is used instead of the package's own, without its redirect
	// policy and cookie jar. It excludes RootCAs.
	HTTPClient *http.Client

	// Now, Sleep and Jitter are the clock and the dice; nil: the real ones.
	// Sleep returns early with the context's cause. Jitter is in [0,1).
	Now    func() time.Time
	Sleep  func(ctx context.Context, d time.Duration) error
	Jitter func() float64
}

// Client calls one server as one application. Make it with [New].
type Client struct {
	config Config
	base   *url.URL
	http   *http.Client
	limit  int64 // of the body of a 2xx answer, in bytes

	// Who has put an element into tokenTurn owns current; others wait, so that an
	// expired token is renewed once, whatever the number of callers.
	tokenTurn chan struct{}
	current   accessToken
}

// New returns a client. It does not connect. The error is a sentence about the
// member of the config that cannot be used.
func New(c Config) (*Client, error) {
	for _, member := range []struct{ name, value string }{
		{"BaseURL", c.BaseURL}, {"TenantID", c.TenantID}, {"ClientID", c.ClientID}, {"ClientSecret", c.ClientSecret},
	} {
		if member.value == "" {
			return nil, fmt.Errorf("%s is missing", member.name)
		}
	}
	base, err := url.Parse(strings.TrimRight(c.BaseURL, "/"))
	switch {
	case err != nil || base.Host == "" || base.RawQuery != "" || base.Fragment != "" || base.User != nil:
		return nil, fmt.Errorf("BaseURL %q is not a plain https address", c.BaseURL)
	case base.Scheme != "https" && !(base.Scheme == "http" && loopback(base.Hostname())):
		return nil, fmt.Errorf("BaseURL %q would send the secret unencrypted; use https", c.BaseURL)
	case c.HTTPClient != nil && c.RootCAs != nil:
		return nil, errors.New("RootCAs has no effect together with HTTPClient; give one of them")
	}
	client := &Client{config: c, base: base, http: new(http.Client), limit: maxBody, tokenTurn: make(chan struct{}, 1)}
	if c.HTTPClient != nil {
		*client.http = *c.HTTPClient
		client.http.Jar = nil
	} else {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{RootCAs: c.RootCAs, MinVersion: tls.VersionTLS12}
		client.http.Transport = transport
		client.http.Timeout = callTimeout
	}
	client.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if client.config.Now == nil {
		client.config.Now = time.Now
	}
	if client.config.Sleep == nil {
		client.config.Sleep = sleep
	}
	if client.config.Jitter == nil {
		client.config.Jitter = rand.Float64
	}
	return client, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// segment escapes one segment of a path. The error, a [*NameError], is for what
// no escaping could keep from meaning another route.
func segment(what, s string) (string, error) {
	if t := strings.TrimSpace(s); t == "" || t == "." || t == ".." {
		return "", &NameError{What: what, Name: s}
	}
	return url.PathEscape(s), nil
}

// address returns the absolute URL of an already escaped path.
func (c *Client) address(path string, query url.Values) string {
	u := c.base.String() + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	return u
}

// get reads the JSON at address into out.
func (c *Client) get(ctx context.Context, address string, out any) error {
	body, err := c.call(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	return decode(body, out)
}

// post sends in as JSON to address and reads the answer into out.
func (c *Client) post(ctx context.Context, address string, in, out any) error {
	return c.write(ctx, http.MethodPost, address, in, out)
}

// write is post with any method.
func (c *Client) write(ctx context.Context, method, address string, in, out any) error {
	request, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	body, err := c.call(ctx, method, address, request)
	if err != nil {
		return err
	}
	return decode(body, out)
}

func decode(body []byte, out any) error {
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

// call sends one request with a token, again where the package's promises
// allow it, and returns the body of a 2xx answer.
func (c *Client) call(ctx context.Context, method, address string, body []byte) ([]byte, error) {
	stale := "" // the token that the server did not accept
	for retry := 0; ; {
		token, cached, err := c.token(ctx, stale)
		if err != nil {
			return nil, err
		}
		answer, err := c.send(ctx, method, address, "application/json", "Bearer "+token, body)
		var refused *Error
		switch {
		case !errors.As(err, &refused):
			return answer, err
		case refused.StatusCode == http.StatusUnauthorized && cached && stale == "":
			stale = token
		case refused.StatusCode == http.StatusTooManyRequests && method == http.MethodGet && retry < maxRetries && refused.RetryAfter <= maxRetryAfter:
			retry++
			if err := c.config.Sleep(ctx, max(refused.RetryAfter, time.Second)); err != nil {
				return nil, err
			}
		default:
			return nil, err
		}
	}
}

// send does one exchange. It returns the body of a 2xx answer, an [*Error] for
// any other, or an [*UnreachableError].
func (c *Client) send(ctx context.Context, method, address, contentType, authorization string, body []byte) ([]byte, error) {
	sent := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent = true }})
	request, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", contentType)
	}
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	request.Header.Set("Accept", "application/json, text/plain")
	request.Header.Set("User-Agent", "cordon-mde")
	response, err := c.http.Do(request)
	if err != nil {
		return nil, &UnreachableError{Sent: sent, Err: cause(ctx, err)}
	}
	defer response.Body.Close()
	limit := c.limit
	if response.StatusCode/100 != 2 {
		limit = maxErrorBody
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if response.StatusCode/100 != 2 {
		return nil, decodeError(response.StatusCode, response.Header, answer, c.config.Now())
	}
	switch {
	case err != nil:
		return nil, &UnreachableError{Sent: true, Err: cause(ctx, err)}
	case int64(len(answer)) > limit:
		return nil, fmt.Errorf("the server's answer is longer than %d bytes", limit)
	}
	return answer, nil
}

// cause strips what [url.Error] adds (method and address, which the caller
// knows) and prefers the reason why ctx ended.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
