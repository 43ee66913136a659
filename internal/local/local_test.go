package local

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
)

// fake is an agent that notes what it is told, and refuses what begins with "no".
type fake struct {
	applied []string
	asked   []string
}

func (f *fake) Status() Status { return Status{Server: "https://cordon.example.org", Unsettled: 7} }

func (f *fake) Preview(context.Context) (cordon.Preview, error) {
	if len(f.applied) == 0 {
		return cordon.Preview{}, errors.New("not yet")
	}
	return cordon.Preview{Running: cordon.Findings{Kind: cordon.Running, Total: 3}}, nil
}

func (f *fake) Apply(_ context.Context, carried string) Applied {
	f.applied = append(f.applied, carried)
	if strings.HasPrefix(carried, "no") {
		return Applied{State: cordon.ReportRefused, Error: "no"}
	}
	return Applied{State: cordon.ReportSucceeded, Report: "jws"}
}

func (f *fake) Admit(_ context.Context, paths []string) error {
	f.asked = paths
	if strings.HasPrefix(paths[0], "/no") {
		return errors.New("/no is not admitted")
	}
	return nil
}

// serve serves an agent until the test ends.
func serve(t *testing.T, dir string, a Agent) *Client {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, dir, a) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the socket ended with %v", err)
		}
	})
	c := Dial(dir)
	for { // until the socket is there: a try before that fails at once
		runtime.Gosched()
		if _, err := c.Status(t.Context()); err == nil {
			return c
		}
		select {
		case err := <-ended:
			t.Fatalf("the socket ended with %v", err)
		default:
		}
	}
}

func TestAnswers(t *testing.T) {
	f := new(fake)
	c := serve(t, t.TempDir(), f)
	if s, err := c.Status(t.Context()); err != nil || s.Server != f.Status().Server || s.Unsettled != 7 {
		t.Errorf("status %+v, %v", s, err)
	}
	if p, err := c.Preview(t.Context()); err != nil || p.Error != "not yet" {
		t.Errorf("no preview: %+v, %v", p, err)
	}
	for carried, want := range map[string]Applied{
		"yes":                               {State: cordon.ReportSucceeded, Report: "jws"},
		"no":                                {State: cordon.ReportRefused, Error: "no"},
		strings.Repeat("x", seal.MaxSize+1): {State: cordon.ReportRefused, Error: "an order has at most 98304 bytes"},
	} {
		if got, err := c.Apply(t.Context(), strings.NewReader(carried)); err != nil || got != want {
			t.Errorf("%.10s: %+v, %v", carried, got, err)
		}
	}
	if slices.Sort(f.applied); !slices.Equal(f.applied, []string{"no", "yes"}) {
		t.Errorf("applied %.20q", f.applied)
	}
	if p, err := c.Preview(t.Context()); err != nil || p.Error != "" || p.Running.Total != 3 {
		t.Errorf("preview: %+v, %v", p, err)
	}
	if got, err := c.Admit(t.Context(), []string{"/a.deb", "/b.deb"}); err != nil || got.Error != "" || !slices.Equal(f.asked, []string{"/a.deb", "/b.deb"}) {
		t.Errorf("asked for %v: %+v, %v", f.asked, got, err)
	}
	if got, err := c.Admit(t.Context(), []string{"/no.deb"}); err != nil || got.Error != "/no is not admitted" {
		t.Errorf("refused: %+v, %v", got, err)
	}
	f.asked = nil
	if got, err := c.Admit(t.Context(), []string{strings.Repeat("x", maxAdmission)}); err != nil || !strings.Contains(got.Error, "cannot be read") || f.asked != nil {
		t.Errorf("a list without end: %+v, %v", got, err)
	}
}

func TestSocketIsForRootOnly(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir, new(fake))
	info, err := os.Stat(filepath.Join(dir, SocketName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as when the agent was killed
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	serve(t, dir, new(fake))
}

func TestNoAgentIsRunning(t *testing.T) {
	_, err := Dial(t.TempDir()).Status(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "reach agent: ") {
		t.Errorf("got %v", err)
	}
}

func TestSomethingElseAnswersOnTheSocket(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()   // it is closed below
	defer func() { _ = srv.Close() }() // the test is over
	if _, err := Dial(dir).Status(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "read the agent's answer: ") {
		t.Errorf("got %v", err)
	}
}
