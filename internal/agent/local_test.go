package agent

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/local"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/test/lab"
)

// serveLocal serves an agent's socket until the test ends.
func serveLocal(t *testing.T, a *Agent) *local.Client {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.ServeLocal(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the socket ended with %v", err)
		}
	})
	client := local.Dial(a.dir.Path())
	for { // until the socket is there: a try before that fails at once
		runtime.Gosched()
		if _, err := client.Status(t.Context()); err == nil {
			return client
		}
		select {
		case err := <-ended:
			t.Fatalf("the socket ended with %v", err)
		default:
		}
	}
}

func TestCarriedOrder(t *testing.T) {
	f := newFixture(t)
	client := serveLocal(t, f.Agent)
	apply := func(jws string) local.Applied {
		t.Helper()
		got, err := client.Apply(t.Context(), strings.NewReader(jws))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := apply(f.sign(f.order(3, cordon.RestrictOrder)) + "\n") // as a file has it
	if got.State != cordon.ReportSucceeded || got.Error != "" || f.read(got.Report).Action != "a3" || f.kernel.inMode() != cordon.ModeEnforce {
		t.Errorf("got %+v, in mode %s", got, f.kernel.inMode())
	}
	if got = apply(f.sign(f.order(2, cordon.UnrestrictOrder))); got.State != cordon.ReportCancelled || got.Error != "generation 3 is in force, which is newer than the order's 2" {
		t.Errorf("older: %+v", got)
	}
	stranger, err := seal.Order(f.order(4, cordon.UnrestrictOrder), seedKey(9))
	if err != nil {
		t.Fatal(err)
	}
	if got = apply(stranger); got.State != cordon.ReportRefused || !strings.Contains(got.Error, "was not made with the expected key") || f.read(got.Report).State != cordon.ReportRefused {
		t.Errorf("forged: %+v", got)
	}
	f.now = hours(100)
	if got = apply(f.sign(f.order(5, cordon.UnrestrictOrder))); got.State != cordon.ReportFailed || !strings.HasPrefix(got.Error, "the order expired at ") {
		t.Errorf("expired: %+v", got)
	}
	if f.kernel.inMode() != cordon.ModeEnforce {
		t.Errorf("in mode %s", f.kernel.inMode())
	}
	// What was decided waits for the server; what was refused does not.
	if d := cmp.Diff([]string{"a3 Succeeded", "a2 Cancelled", "a5 Failed"}, f.outboxStates()); d != "" {
		t.Errorf("outbox (-want +got):\n%s", d)
	}
}

func TestLocalStatus(t *testing.T) {
	f := newFixture(t)
	client := serveLocal(t, f.Agent)
	f.obey(f.order(1, cordon.RestrictOrder))
	got, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := f.Status()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("over the socket (-want +got):\n%s", d)
	}
	if got.Machine != f.id || got.Tenant != "tenant" || got.Standing.Action != "a1" || got.Unsettled != 1 || got.Applying || got.Transport != "" || !got.Observed.Restricted() || got.Observed.Generation != 1 || len(got.OrderKey) != 64 {
		t.Errorf("got %+v", got)
	}
}

// The report on a carried order reaches the server, which never sent it, and the
// server's own copy of the order is answered with the same outcome.
func TestCarriedOrderIsReported(t *testing.T) {
	server := lab.Start(t, lab.Options{})
	o := connect(t, server)
	o.enrolled()
	client := serveLocal(t, o.Agent)
	server.Service.Nudge = func(cordon.MachineID) {}
	a := server.Request(o.id, cordon.RestrictCodeExecution)
	jws, err := server.Service.CarriedOrder(t.Context(), lab.Admin, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.Apply(t.Context(), strings.NewReader(jws))
	if err != nil || got.State != cordon.ReportSucceeded {
		t.Fatalf("%+v, %v", got, err)
	}
	server.Await(a.ID, cordon.Succeeded)
	server.Hub.Nudge(o.id)
	if n := len(o.kernel.calls()); n != 1 {
		t.Errorf("switched %d times", n)
	}
}

func TestCarriedOrderBeforeEnrolment(t *testing.T) {
	f := newFixture(t)
	f.dir = t.TempDir()
	f.restart()
	got, err := serveLocal(t, f.Agent).Apply(t.Context(), strings.NewReader(f.sign(f.order(1, cordon.RestrictOrder))))
	if err != nil || got.State != cordon.ReportRefused || got.Error != "this machine is not enrolled yet, so it knows no server to obey" || got.Report != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestLocalAdmit(t *testing.T) {
	f := newFixture(t)
	client := serveLocal(t, f.Agent)
	if got, err := client.Admit(t.Context(), []string{"/a.deb"}); err != nil || got.Error != "" {
		t.Errorf("without anybody to ask: %+v, %v", got, err)
	}
	var asked []string
	answer := error(nil)
	f.cfg.Admit = func(_ context.Context, paths []string) error { asked = paths; return answer }
	if got, err := client.Admit(t.Context(), []string{"/a.deb", "/b.deb"}); err != nil || got.Error != "" || !cmp.Equal(asked, []string{"/a.deb", "/b.deb"}) {
		t.Errorf("asked for %v: %+v, %v", asked, got, err)
	}
	answer = errors.New("/a.deb is not admitted")
	if got, err := client.Admit(t.Context(), []string{"/a.deb"}); err != nil || got.Error != "/a.deb is not admitted" {
		t.Errorf("refused: %+v, %v", got, err)
	}
}
