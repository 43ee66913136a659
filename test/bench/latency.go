package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/simulate"
	"github.com/cordon-project/cordon/mde"
	"github.com/cordon-project/cordon/test/bench/figures"
)

const (
	simulated = 999 // machines that are connected besides the real one
	rounds    = 300 // of restricting and unrestricting
	callers   = 64  // clients at once
)

// request asks for one action and returns its id.
func (b *bench) request(ctx context.Context, machine string, restrict bool) (string, error) {
	ask := b.client.Unrestrict
	if restrict {
		ask = b.client.Restrict
	}
	a, err := ask(ctx, machine, "Cordon bench")
	return a.ID, err
}

// ended asks how the action stands, every half millisecond, until it has ended.
func (b *bench) ended(id string) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(500 * time.Microsecond) {
		a, err := b.client.GetAction(b, id)
		switch {
		case err != nil:
			return err
		case a.Status == mde.Succeeded:
			return nil
		case a.Ended() || time.Now().After(end):
			return fmt.Errorf("action %s is %s", id, a.Status)
		}
	}
}

// order restricts or releases a machine.
func (b *bench) order(machine string, restrict bool) error {
	id, err := b.request(b, machine, restrict)
	if err != nil {
		return err
	}
	return b.ended(id)
}

// latency measures actions on the real machine. Every other round is left alone
// by its client and read from the audit log only, to see what asking costs.
func (b *bench) latency(e *endpoint, agents string) {
	var client, sent, reported, quiet figures.Sample
	for i, first := 0, time.Now(); i < 2*rounds && time.Since(first) < time.Minute; i++ {
		watched := i/2%2 == 0
		began := time.Now()
		id := must(b.request(b, e.machine, i%2 == 0))
		if !watched {
			time.Sleep(25 * time.Millisecond)
		}
		check(b.ended(id))
		took := time.Since(began)
		at := map[cordon.AuditKind]time.Time{}
		for _, entry := range must(b.client.Evidence(b, id)).Entries {
			at[entry.Kind] = entry.At
		}
		after := func(k cordon.AuditKind) float64 { return ms(at[k].Sub(at[cordon.AuditCreated])) }
		if !watched {
			quiet = append(quiet, after(cordon.AuditReport))
			continue
		}
		client, sent, reported = append(client, ms(took)), append(sent, after(cordon.AuditDelivered)), append(reported, after(cordon.AuditReport))
	}
	b.Target(agents+", at the client, p50", client.Median() <= 5, "≤ 5 ms", "%s ms", client.Spread("%.2f"))
	b.Target(agents+", at the client, p99", client.At(.99) <= 25, "≤ 25 ms", "%.2f ms", client.At(.99))
	b.Figure(agents+", by the audit log", "sent after %.2f ms, reported after %.2f ms (p99 %.2f)", sent.Median(), reported.Median(), reported.At(.99))
	b.Figure("… when nobody asked meanwhile", "reported after %.2f ms (p99 %.2f)", quiet.Median(), quiet.At(.99))
}

// inForce measures how long it takes until a program is refused: somebody tries
// to execute it every 0.2 ms, from before the request on.
func (b *bench) inForce(name string, e *endpoint, held place) {
	path := filepath.Join(held.dir, "untrusted")
	check(must(enforce.NewCanary()).WriteFile(path))
	defer func() { check(os.Remove(path)) }()
	var asked, ordered figures.Sample
	for i, first := 0, time.Now(); i < 50 && time.Since(first) < 15*time.Second; i++ {
		type outcome struct {
			at  time.Time
			err error
		}
		refused := make(chan outcome, 1)
		began := time.Now()
		go func() {
			err := execute(path)
			for ; err == nil && time.Since(began) < time.Minute; err = execute(path) {
				time.Sleep(200 * time.Microsecond)
			}
			refused <- outcome{time.Now(), err}
		}()
		id := must(b.request(b, e.machine, true))
		o := <-refused
		if !errors.Is(o.err, unix.EPERM) {
			check(fmt.Errorf("a program that is not trusted ended with %w", o.err))
		}
		check(b.ended(id))
		asked = append(asked, ms(o.at.Sub(began)))
		for _, entry := range must(b.client.Evidence(b, id)).Entries {
			if entry.Kind == cordon.AuditDelivered {
				ordered = append(ordered, ms(o.at.Sub(entry.At)))
			}
		}
		check(b.order(e.machine, false))
	}
	b.Target(name+": from the order", ordered.Median() < 10, "< 10 ms", "%s ms, p99 %.2f", ordered.Spread("%.2f"), ordered.At(.99))
	b.Figure(name+": from the request", "%s ms, p99 %.2f", asked.Spread("%.2f"), asked.At(.99))
	b.flushes() // what has to be on disk before anything is switched waits for this
}

// inForceUnderLoad does so while other processes want the processors as well.
func (b *bench) inForceUnderLoad(e *endpoint, held place) {
	b.inForce("nothing else to do", e, held)
	busy := 2 * runtime.NumCPU()
	for range busy {
		p := b.start("busy", "nice", "-n", "20", "sh", "-c", "while :; do :; done")
		defer func() { check(p.stop()) }()
	}
	b.inForce(fmt.Sprintf("beside %d busy processes", busy), e, held)
}

// requests measures with one connected agent and with a thousand, and what a
// connection costs the server, which is started anew for that.
func (b *bench) requests(e *endpoint) {
	b.Say("   (POST → enforced, tested and reported, %d times each way; the client asks every 0.5 ms)", rounds/2)
	b.latency(e, "1 agent")
	fleet := must(simulate.Enrol(b, simulate.Config{
		Server: b.boot.URL, Roots: b.roots, Token: b.boot.EnrollmentToken, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Facts: func(n int) cordon.Facts {
			return cordon.Facts{DNSName: fmt.Sprintf("bench-%d.invalid", n), OSPlatform: "Debian", OSVersion: "12", AgentVersion: "0", BootID: strconv.Itoa(n)}
		},
	}, simulated))
	check(b.running.stop())
	b.server(b)
	b.await(b, "server", "the agent is connected again", func() bool { // and the server has done everything once
		return b.order(e.machine, true) == nil && b.order(e.machine, false) == nil
	})
	before := memory(b.running.Process.Pid, "VmRSS")
	ctx, cancel := context.WithCancel(b)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { fleet.Run(ctx) })
	connecting, done := context.WithTimeout(b, time.Minute)
	defer done()
	check(fleet.Wait(connecting, func(s simulate.Stats) bool { return s.Connected == simulated }))
	time.Sleep(3 * time.Second) // what each of them says first is to be taken in too
	after := memory(b.running.Process.Pid, "VmRSS")
	each := float64(after-before) / 1024 / simulated
	b.Target("server's memory per connected agent", each <= 50, "≤ 50 KB", "%.1f KB (resident: %.1f → %.1f MB)", each, mb(before), mb(after))
	b.latency(e, "1,000 agents")
	b.throughput(fleet)
}

// throughput has many clients ask for actions on the simulated machines, which
// answer each, as fast as it goes.
func (b *bench) throughput(fleet *simulate.Fleet) {
	machines := fleet.Machines()
	ctx, cancel := context.WithTimeout(b, 4*time.Second)
	defer cancel()
	var created, next atomic.Int64
	before, began := fleet.Stats().Reports, time.Now()
	check(together(callers, func() error {
		for ctx.Err() == nil {
			i := int(next.Add(1)) - 1
			_, err := b.request(ctx, string(machines[i%len(machines)]), i/len(machines)%2 == 0)
			var no *mde.Error
			switch {
			case err == nil:
				created.Add(1)
			case ctx.Err() != nil || errors.As(err, &no) && no.Code == mde.CodeActiveRequestAlreadyExists: // the machine is slower than we are
			default:
				return err
			}
		}
		return nil
	}))
	took := time.Since(began).Seconds()
	b.Figure(fmt.Sprintf("%d callers over HTTPS, %d agents answering", callers, simulated), "%.0f created/s, %.0f reports settled/s (all on this machine)",
		float64(created.Load())/took, float64(fleet.Stats().Reports-before)/took)
}
