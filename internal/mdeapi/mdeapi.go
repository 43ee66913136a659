// Package mdeapi is the edge that speaks the machine action API of Microsoft
// Defender for Endpoint, so that programs written for it work with Cordon.
//
// # What it owns
//
// Everything below /api: the routes, how a body is read, the exact form of every
// answer (members, order, headers, error bodies), and the translation of a
// [cordon.Error] into a status code and Defender's code. Decisions are not taken
// here but by [cordon.Service]. "Defender contract" in comments means the
// observed behaviour of Microsoft's service; where that differs from its
// documentation, what was observed counts, because clients were built on it.
//
// # What it promises
//
// A request is checked in the order of the contract (5.4): caller, permission,
// machine, body, then what the domain has to say. Until all checks have passed
// nothing is written anywhere. Every answer is complete before its first byte is
// sent; every error has a JSON body with code, message and target, where target
// names the request in the log. A panic or an unclassified error is a 500 that
// tells the caller nothing but that target.
//
// The package starts no goroutine and holds no state but compressors to be used
// again; the handler is safe for concurrent use.
package mdeapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
)

// Config is what the edge needs. Every field is required unless it says otherwise.
type Config struct {
	Service      *cordon.Service
	Authenticate func(*http.Request) (cordon.Caller, error) // errors of kind Unauthenticated or Forbidden
	// Limit charges a call to the caller. api is the method and the path of the
	// route, as in "GET machines/*". An error of kind Limited says when to try
	// again. Nil: calls are not limited.
	Limit func(ctx context.Context, c cordon.Caller, api string) error
	Base  func(*http.Request) string // scheme and host that the client called, without a slash at the end
	Now   func() time.Time
	NewID func() string // a new random GUID, lower case
	Log   *slog.Logger
}

// New returns the handler for /api and everything below it, in any case.
func New(c Config) http.Handler { return &api{c, cordon.MaxTop} }

type api struct {
	Config
	pageSize int // the most rows of a page
}

// call is one request on its way through the edge.
type call struct {
	*http.Request
	w      http.ResponseWriter // for its connection only: answers are returned
	target string              // GUID of this request, also in the log
	base   string              // scheme and host that the client called
	prefix string              // /api, or /api/v1.0 if the client asked for it
	args   []string            // what stands where the route has a variable
	caller cordon.Caller
}

// source is what actions of this edge carry as requestSource.
const source = "PublicApi"

// ServeHTTP answers one request.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{Request: r, w: w, target: a.NewID(), base: a.Base(r)}
	h := w.Header()
	h.Set("Mise-Correlation-Id", c.target)
	h.Set("X-Content-Type-Options", "nosniff")
	if strings.HasPrefix(c.base, "https:") {
		// Defender adds includeSubDomains; about the names below somebody else's
		// host this server has nothing to say.
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
	status, body, err := a.answer(c)
	switch {
	case err != nil:
		status, body = a.refuse(c, err)
		h.Set("Content-Type", "application/json; charset=utf-8")
	case body != nil:
		h.Set("Content-Type", "application/json; odata.metadata=minimal; odata.streaming=true; charset=utf-8")
		h.Set("OData-Version", "4.0")
		h.Set("Vary", "Accept-Encoding")
		if coding := codingFor(r.Header.Values("Accept-Encoding"), len(body)); coding != "" {
			h.Set("Content-Encoding", coding)
			body = compress(coding, body)
		}
	}
	if body != nil {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // fails only if the client has gone
	}
}

// answer finds the route, checks who calls and what the caller may do, and
// returns status and body of the answer.
func (a *api) answer(c *call) (status int, body []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	route, err := find(c)
	if err != nil {
		return 0, nil, err
	}
	if c.Method == http.MethodOptions {
		return http.StatusNoContent, nil, nil
	}
	if c.caller, err = a.Authenticate(c.Request); err != nil {
		return 0, nil, err
	}
	c.caller.Source = source
	// Before what the caller may do: a call that is refused costs as much as another.
	if a.Limit != nil {
		if err := a.Limit(c.Context(), c.caller, route.method+" "+route.path); err != nil {
			return 0, nil, err
		}
	}
	if err := c.caller.Authorize(route.op); err != nil {
		return 0, nil, err
	}
	body, err = route.serve(a, c)
	return route.status, body, err
}

// refuse logs an error and returns the answer that tells of it.
func (a *api) refuse(c *call, err error) (int, []byte) {
	p := problemOf(err)
	h := c.w.Header()
	for name, value := range p.header {
		h.Set(name, value)
	}
	level := slog.LevelInfo
	if p.status >= http.StatusInternalServerError && c.Context().Err() == nil {
		level = slog.LevelError
	}
	a.Log.Log(c.Context(), level, "API request refused", "target", c.target, "method", c.Method, "path", c.URL.Path,
		"client", c.caller.ID, "status", p.status, "code", p.code, "error", err)
	return p.status, p.body(c.target)
}

// problem is an error as it goes out.
type problem struct {
	status  int
	code    string // of Defender (contract 3.2)
	message string
	// framework marks what Defender's OData framework answers before its API
	// sees the request: an empty code and details (contract 3.1).
	framework bool
	header    map[string]string
}

func (p *problem) Error() string { return p.message }

// body is the problem in JSON. The framework's form has no target at Defender;
// here it has, because clients index the three members of an error without a check.
func (p *problem) body(target string) []byte {
	b := append([]byte(nil), `{"error":{"code":`...)
	b = appendString(b, p.code)
	b = append(b, `,"message":`...)
	b = appendString(b, p.message)
	b = append(b, `,"target":`...)
	b = appendString(b, target)
	if p.framework {
		b = append(b, `,"details":[]`...)
	}
	return append(b, `}}`...)
}

// problemOf translates an error of the domain (Defender contract 3.2 and 3.3).
func problemOf(err error) *problem {
	if p := (*problem)(nil); errors.As(err, &p) {
		return p
	}
	p := &problem{}
	e := (*cordon.Error)(nil)
	if errors.As(err, &e) {
		p.message = e.Message
	}
	switch cordon.KindOf(err) {
	case cordon.Invalid, cordon.Conflict:
		p.status = http.StatusBadRequest
		switch cordon.CodeOf(err) {
		case cordon.CodeMissingParameter:
			p.code = "MissingRequiredParameter"
		case cordon.CodeInvalidInput:
			p.code = "InvalidInput"
		case cordon.CodeInvalidAddress:
			p.code = "InvalidIpAddress"
		case cordon.CodeBatchTooLarge:
			p.code = "MaximumBatchSizeExceeded"
		case cordon.CodeInvalidBody:
			p.code = "InvalidRequestBody"
		case cordon.CodeInvalidQuery:
			p.code = "ODataError"
		case cordon.CodeMalformedQuery:
			p.framework = true
		case cordon.CodePlatformUnsupport:
			p.code = "OsPlatformNotSupported"
		case cordon.CodeVersionUnsupport:
			p.code = "ClientVersionNotSupported"
		case cordon.CodeActionInProgress:
			// One client looks for exactly these words.
			p.code, p.message = "ActiveRequestAlreadyExists", "Action is already in progress"
		default:
			p.code = "BadRequest"
		}
	case cordon.Unauthenticated:
		p.status, p.code, p.header = http.StatusUnauthorized, "Unauthorized", map[string]string{"WWW-Authenticate": "Bearer"}
	case cordon.Forbidden:
		p.status, p.code = http.StatusForbidden, "Forbidden"
	case cordon.NotFound:
		p.status, p.code = http.StatusNotFound, "ResourceNotFound"
	case cordon.Limited:
		p.status, p.code, p.header = http.StatusTooManyRequests, "429", map[string]string{"Retry-After": strconv.Itoa(int(max(e.RetryAfter, time.Second) / time.Second))}
	case cordon.Unavailable:
		p.status, p.code, p.header = http.StatusServiceUnavailable, "ServiceUnavailable", map[string]string{"Retry-After": "5"}
		p.message = "The service cannot answer right now. Try again."
	default:
		p.status, p.code = http.StatusInternalServerError, "InternalServerError"
		p.message = "An internal error occurred. Quote the target of this error to your administrator."
	}
	return p
}
