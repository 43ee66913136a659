package sqlite_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite"
)

// fleet is how many machines the benchmarks have. Each can have one open action
// of either type, so that up to twice as many creates meet no duplicate.
const fleet = 100_000

var benchTime = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func benchMachine(i int) cordon.Machine {
	key := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	return cordon.Machine{
		ID: cordon.IDOfKey(key[:]), DeviceID: cordon.DeviceIDOfKey(key[:]), Key: key[:], FirstSeen: benchTime, LastSeen: benchTime,
		Facts: cordon.Facts{
			DNSName: fmt.Sprintf("host-%06d.corp.example.org", i), OSPlatform: "Debian", OSVersion: "12", Kernel: "6.1.0-28-amd64", Processor: "x64",
			Architecture: "64-bit", AgentVersion: "0.1.0", BootID: uuid.NewString(), LastIP: "10.1.2.3",
			Interfaces: []cordon.Interface{{IP: "127.0.0.1", Type: "SoftwareLoopback", Status: "Up"}, {IP: "10.1.2.3", MAC: "0242AC110002", Type: "Ethernet", Status: "Up"}},
		},
	}
}

// fill enrols the fleet in a new database and returns the path of the closed file.
func fill(b *testing.B) string {
	path := filepath.Join(b.TempDir(), "fleet.db")
	s, err := sqlite.Open(b.Context(), path)
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 256 {
		wg.Go(func() {
			for i := g; i < fleet; i += 256 {
				if _, err := s.EnrolMachine(b.Context(), benchMachine(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil || b.Failed() {
		b.Fatal(err)
	}
	return path
}

func copyFile(b *testing.B, from string) string {
	in, err := os.Open(from)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = in.Close() }() // only read
	out, err := os.Create(filepath.Join(b.TempDir(), "copy.db"))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		b.Fatal(err)
	}
	if err := out.Sync(); err != nil {
		b.Fatal(err)
	}
	if err := out.Close(); err != nil {
		b.Fatal(err)
	}
	return out.Name()
}

// BenchmarkCreateAction measures durable creates, each with its generation and
// its audit entry, by callers who each wait for their answer: with random ids,
// and with ids that begin with the time (UUID version 7), whose index grows at
// its end instead of everywhere.
func BenchmarkCreateAction(b *testing.B) {
	path := fill(b)
	for _, ids := range []struct {
		name string
		make func() string
	}{
		{"random", uuid.NewString},
		{"ordered", func() string { return uuid.Must(uuid.NewV7()).String() }},
	} {
		for _, callers := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("ids=%s/callers=%d", ids.name, callers), func(b *testing.B) { benchCreate(b, copyFile(b, path), callers, ids.make) })
		}
	}
}

func benchCreate(b *testing.B, path string, callers int, newID func() string) {
	if b.N > 2*fleet {
		b.Skipf("%d creates are more than the fleet can have open: choose a shorter -benchtime", b.N)
	}
	s, err := sqlite.Open(b.Context(), path)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	}()
	ids := make([]cordon.MachineID, fleet)
	for i := range ids {
		ids[i] = benchMachine(i).ID
	}
	var next atomic.Int64
	waits := make([][]time.Duration, callers)
	var wg sync.WaitGroup
	begin := cpuTime(b)
	b.ResetTimer()
	for c := range callers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.N {
					return
				}
				d := cordon.ActionDraft{
					ID: cordon.ActionID(newID()), Type: cordon.RestrictCodeExecution, Machine: ids[i%fleet],
					Requestor: "Cordon bootstrap", RequestorID: "5f2b1a0e-8a1c-4b62-9d0e-1f6f6a1f2c3d",
					Comment: "suspicious process seen by the SOC, ticket 4711", Source: "PublicApi",
					Created: benchTime, Expires: benchTime.Add(cordon.DefaultTTL),
				}
				if i >= fleet {
					d.Type = cordon.UnrestrictCodeExecution
				}
				start := time.Now()
				if _, err := s.CreateAction(b.Context(), d); err != nil {
					b.Error(err)
					return
				}
				waits[c] = append(waits[c], time.Since(start))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(waits...)
	slices.Sort(all)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
	b.ReportMetric(float64((cpuTime(b)-begin).Nanoseconds())/float64(b.N), "cpu-ns/op")
	b.ReportMetric(all[len(all)/2].Seconds()*1000, "p50-ms")
	b.ReportMetric(all[len(all)*99/100].Seconds()*1000, "p99-ms")
}

// cpuTime is what the process has used so far, which says more than the clock
// does where other work shares the machine.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
