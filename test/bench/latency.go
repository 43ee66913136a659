package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/simulate"
	"github.com/cordon-project/cordon/mde"
)

// simulated is how many machines besides the real one are connected.
const simulated = 999

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

// rounds of restrict and unrestrict. Every other round is left alone by its
// client and read from the audit log only, to see what the asking itself costs.
const rounds = 300

func (b *bench) latency(e *endpoint, agents string) error {
	var client, sent, reported, quiet []float64
	for i := range rounds {
		watched := i%2 == 0
		for _, restrict := range []bool{true, false} {
			began := time.Now()
			id, err := b.request(b, e.machine, restrict)
			if err != nil {
				return err
			}
			if !watched {
				time.Sleep(25 * time.Millisecond)
			}
			if err := b.ended(id); err != nil {
				return err
			}
			took := time.Since(began)
			evidence, err := b.client.Evidence(b, id)
			if err != nil {
				return err
			}
			at := map[cordon.AuditKind]time.Time{}
			for _, entry := range evidence.Entries {
				at[entry.Kind] = entry.At
			}
			since := func(k cordon.AuditKind) float64 { return ms(at[k].Sub(at[cordon.AuditCreated])) }
			if watched {
				client, sent, reported = append(client, ms(took)), append(sent, since(cordon.AuditDelivered)), append(reported, since(cordon.AuditReport))
			} else {
				quiet = append(quiet, since(cordon.AuditReport))
			}
		}
	}
	name := agents + ", at the client"
	b.most(name+", p50", quantile(client, .5), 5, " ms", "%s ms", spread(client, "%.2f"))
	b.most(name+", p99", quantile(client, .99), 25, " ms", "%.2f ms", quantile(client, .99))
	b.figure(agents+", by the audit log", "sent after %.2f ms, reported after %.2f ms, p99 %.2f ms", quantile(sent, .5), quantile(reported, .5), quantile(reported, .99))
	b.figure("… when nobody asked meanwhile", "reported after %.2f ms, p99 %.2f ms", quantile(quiet, .5), quantile(quiet, .99))
	return nil
}

// requests measures with one connected agent and with a thousand, and what a
// connection costs the server, which is started anew for that.
func (b *bench) requests(e *endpoint) error {
	say("   (POST → enforced, tested and reported, %d times each way; the client asks every 0.5 ms)", rounds/2)
	if err := b.latency(e, "1 agent"); err != nil {
		return err
	}
	fleet, err := simulate.Enrol(b, simulate.Config{
		Server: b.boot.URL, Roots: b.roots, Token: b.boot.EnrollmentToken, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Facts: func(n int) cordon.Facts {
			return cordon.Facts{DNSName: fmt.Sprintf("bench-%d.invalid", n), OSPlatform: "Debian", OSVersion: "12", AgentVersion: "0", BootID: strconv.Itoa(n)}
		},
	}, simulated)
	if err != nil {
		return err
	}
	if err := b.running.stop(); err != nil {
		return err
	}
	server, err := b.server(b)
	if err != nil {
		return err
	}
	if err := e.ready(b); err != nil {
		return err
	}
	if err := b.order(e.machine, true); err != nil { // so that the server has done everything once
		return err
	}
	if err := b.order(e.machine, false); err != nil {
		return err
	}
	before, err := residentSet(server.Process.Pid)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(b)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { fleet.Run(ctx) })
	connecting, done := context.WithTimeout(b, time.Minute)
	defer done()
	if err := fleet.Wait(connecting, func(s simulate.Stats) bool { return s.Connected == simulated }); err != nil {
		return fmt.Errorf("connect %d simulated agents: %w", simulated, err)
	}
	time.Sleep(3 * time.Second)
	after, err := residentSet(server.Process.Pid)
	if err != nil {
		return err
	}
	perAgent := float64(after-before) / 1024 / simulated
	b.most("server memory per connected agent", perAgent, 50, " KB", "%.1f KB (resident: %.1f → %.1f MB)", perAgent, mb(before), mb(after))
	if err := b.latency(e, "1,000 agents"); err != nil {
		return err
	}
	return b.throughput(fleet)
}

// throughput has 64 clients ask for actions on the simulated machines, which
// answer each, as fast as it goes.
func (b *bench) throughput(fleet *simulate.Fleet) error {
	const callers, lasting = 64, 4 * time.Second
	machines := fleet.Machines()
	ctx, cancel := context.WithTimeout(b, lasting)
	defer cancel()
	var created atomic.Int64
	failed := make(chan error, callers)
	before := fleet.Stats().Reports
	began := time.Now()
	var work sync.WaitGroup
	for c := range callers {
		work.Go(func() {
			for i := c; ctx.Err() == nil; i += callers {
				_, err := b.request(ctx, string(machines[i%len(machines)]), i/len(machines)%2 == 0)
				var no *mde.Error
				switch {
				case err == nil:
					created.Add(1)
				case ctx.Err() != nil || errors.As(err, &no) && no.Code == mde.CodeActiveRequestAlreadyExists: // the last one on this machine is still under way
				default:
					failed <- err
					return
				}
			}
		})
	}
	work.Wait()
	took := time.Since(began).Seconds()
	select {
	case err := <-failed:
		return err
	default:
	}
	b.figure("64 callers over HTTPS, 999 agents answering", "%.0f requests/s answered 201, %.0f reports/s settled (clients and agents share the machine)",
		float64(created.Load())/took, float64(fleet.Stats().Reports-before)/took)
	return nil
}

// idle measures an agent and its guardian while nothing happens.
func (b *bench) idle(e *endpoint) error {
	const lasting = 20 * time.Second
	pids, err := family(e.Process.Pid)
	if err != nil {
		return err
	}
	used := func() (sum time.Duration, err error) {
		for _, pid := range pids {
			var t unix.Timespec
			// The clock of another process's processor time; see clock_getcpuclockid(3).
			if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
				return 0, fmt.Errorf("read processor time: %w", err)
			}
			sum += time.Duration(t.Nano())
		}
		return sum, nil
	}
	before, err := used()
	if err != nil {
		return err
	}
	time.Sleep(lasting)
	after, err := used()
	if err != nil {
		return err
	}
	var total int64
	var each []string
	for _, pid := range pids {
		rss, err := residentSet(pid)
		if err != nil {
			return err
		}
		total += rss
		each = append(each, fmt.Sprintf("%.1f", mb(rss)))
	}
	b.most("memory of agent and guardian (resident)", mb(total), 40, " MB", "%.1f MB (%s)", mb(total), strings.Join(each, " + "))
	b.figure(fmt.Sprintf("processor time in %s", lasting), "%.1f ms = %.3f %% of one core", ms(after-before), 100*float64(after-before)/float64(lasting))
	return nil
}

// family returns a process and its children.
func family(pid int) ([]int, error) {
	all := []int{pid}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])) // proc_pid_stat(5): state, ppid, …
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			all = append(all, child)
		}
	}
	return all, nil
}

// residentSet is a process's VmRSS in bytes.
func residentSet(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func mb(bytes int64) float64 { return float64(bytes) / (1 << 20) }
