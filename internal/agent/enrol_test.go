package agent

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/testkit/memnet"
	"github.com/cordon-project/cordon/internal/uplink"
	"github.com/cordon-project/cordon/internal/wire"
	"github.com/cordon-project/cordon/test/lab"
)

// unconnected makes an agent that is not enrolled and does not run.
func unconnected(t *testing.T, server *lab.Server, with func(*Config)) *Agent {
	t.Helper()
	dir := t.TempDir()
	a, err := Open(Config{
		Server: server.URL, CAFile: server.CAFile, EnrollToken: lab.Token, DataDir: dir, Log: lab.Logger(t), Now: time.Now, Boot: bootClock(),
		Facts: func() (cordon.Facts, error) { return cordon.Facts{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() }) // the test is over
	with(&a.cfg)
	a.Use(&kernel{t: t, dir: dir})
	return a
}

func TestEnrolmentIsRefused(t *testing.T) {
	server := lab.Start(t, lab.Options{})
	for name, c := range map[string]struct {
		with func(*Config)
		why  string
	}{
		"wrong token":    {func(c *Config) { c.EnrollToken = "guess" }, "The enrolment token is not valid. Use the one of this server's bootstrap.json"},
		"no token":       {func(c *Config) { c.EnrollToken = "" }, "this machine is not enrolled: start the agent once with --enrollment-token"},
		"plain HTTP":     {func(c *Config) { c.Server = "http://localhost" }, `the server's URL "http://localhost" must be of the form https://host[:port]`},
		"no host":        {func(c *Config) { c.Server = "https://" }, `the server's URL "https://" must be of the form https://host[:port]`},
		"not a URL":      {func(c *Config) { c.Server = "::" }, `the server's URL "::" must be of the form https://host[:port]`},
		"no CA file":     {func(c *Config) { c.CAFile = filepath.Join(t.TempDir(), "ca.crt") }, "cannot read the CA file: "},
		"CA file broken": {func(c *Config) { c.CAFile = os.Args[0] }, "holds no certificate in PEM form"},
	} {
		t.Run(name, func(t *testing.T) {
			a := unconnected(t, server, c.with)
			if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("got %v, want %s", err, c.why)
			}
		})
	}
	if all, _, err := server.Store.Machines(t.Context(), cordon.Query{}); err != nil || len(all) != 0 {
		t.Errorf("machines: %v, %v", all, err)
	}
}

// A server that nobody vouches for is not talked to.
func TestServerCertificateIsChecked(t *testing.T) {
	server := lab.Start(t, lab.Options{})
	a := unconnected(t, server, func(c *Config) { c.CAFile = "" })
	s, err := uplink.New(server.URL, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	var unknown x509.UnknownAuthorityError
	if _, err := a.enrol(t.Context(), s); !errors.As(err, &unknown) {
		t.Errorf("got %v", err)
	}
}

// An answer to an enrolment that gets lost does not leave a second machine behind.
func TestEnrolmentAnswerIsLost(t *testing.T) {
	var lost atomic.Int32
	inBubble(t, lab.Options{Front: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == wire.EnrollPath && lost.Add(1) <= 2 {
				next.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		})
	}}, func(t *testing.T, _ *memnet.Network, server *lab.Server) {
		o := connect(t, server)
		o.server.Bell.Await(t, "the first answer is lost", func() bool { return lost.Load() > 0 })
		o.restart()
		o.enrolled()
		if all, _, err := server.Store.Machines(t.Context(), cordon.Query{}); err != nil || len(all) != 1 || lost.Load() != 3 {
			t.Errorf("%d machines after %d enrolments, %v", len(all), lost.Load(), err)
		}
		o.does(cordon.RestrictCodeExecution)
	})
}

// impostor answers enrolments with something else.
func TestEnrolmentAnswerIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(wire.EnrollRequest) string
		why    string
	}{
		"another machine's id": {func(wire.EnrollRequest) string { return `{"machineId":"1111"}` }, "the server named this machine 1111"},
		"no order key": {func(r wire.EnrollRequest) string {
			key, err := seal.PublicKey(r.Key)
			if err != nil {
				t.Error(err)
			}
			return fmt.Sprintf(`{"machineId":%q}`, cordon.IDOfKey(key))
		}, "the server's order key cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			server := lab.Start(t, lab.Options{Front: func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					var req wire.EnrollRequest
					if err := decode(r.Body, &req); err != nil {
						t.Error(err)
					}
					_, _ = io.WriteString(w, c.answer(req)) // the agent has gone; the test sees it
				})
			}})
			a := unconnected(t, server, func(*Config) {})
			if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("got %v", err)
			}
			if a.Status().Machine != "" {
				t.Error("counts as enrolled")
			}
		})
	}
}
