package trust

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/cordon-project/cordon/internal/trust/dpkg"
	"github.com/cordon-project/cordon/internal/trust/rpm"
	"github.com/cordon-project/cordon/internal/trust/survival"
)

// machine skips a benchmark where no package manager installed the machine.
func machine(b *testing.B) {
	b.Helper()
	_, derr := dpkg.Open("/", time.Now())
	_, rerr := rpm.Open("/")
	if errors.Is(derr, dpkg.ErrNone) && errors.Is(rerr, rpm.ErrNone) {
		b.Skip("this machine has no package database")
	}
}

func run(b *testing.B, builder *Builder) Summary {
	b.Helper()
	_, sum, err := builder.Build(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return sum
}

// BenchmarkCold builds the set of the whole machine from nothing. The first
// round reads from the disk what is not in the page cache.
func BenchmarkCold(b *testing.B) {
	machine(b)
	for b.Loop() {
		builder := &Builder{}
		sum := run(b, builder)
		b.SetBytes(sum.HashedBytes)
		b.ReportMetric(float64(sum.Entries), "entries")
		b.StopTimer()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		runtime.KeepAlive(builder)
		b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MB")
		b.StartTimer()
	}
}

// BenchmarkRestart builds the set of the whole machine as the agent does when it
// starts with its cache.
func BenchmarkRestart(b *testing.B) {
	machine(b)
	cache := filepath.Join(b.TempDir(), "cache")
	run(b, &Builder{CacheFile: cache})
	for b.Loop() {
		if sum := run(b, &Builder{CacheFile: cache}); sum.Hashed > sum.Entries/10 {
			b.Fatalf("the cache did not help: %+v", sum)
		}
	}
}

// BenchmarkLast loads the last set from the cache.
func BenchmarkLast(b *testing.B) {
	machine(b)
	builder := &Builder{CacheFile: filepath.Join(b.TempDir(), "cache")}
	run(b, builder)
	for b.Loop() {
		if builder.Last() == nil {
			b.Fatal("no last set")
		}
	}
}

// BenchmarkOneFilePackage builds the set anew after a package of one file was
// upgraded, among all the packages of the machine: on a copy of dpkg's database.
func BenchmarkOneFilePackage(b *testing.B) {
	if _, err := dpkg.Open("/", time.Now()); errors.Is(err, dpkg.ErrNone) {
		b.Skip("this machine has no dpkg database")
	} else if err != nil {
		b.Fatal(err)
	}
	root := b.TempDir()
	copyTree(b, "/"+dpkg.Dir, filepath.Join(root, dpkg.Dir))
	entries, err := os.ReadDir("/")
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "var" || e.Name() == "opt" {
			continue
		}
		if err := os.Symlink("/"+e.Name(), filepath.Join(root, e.Name())); err != nil {
			b.Fatal(err)
		}
	}
	write := func(path, content string) {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path+"~", []byte(content), 0o755), os.Rename(path+"~", path)); err != nil {
			b.Fatal(err)
		}
	}
	status, err := os.ReadFile(filepath.Join(root, dpkg.Dir, "status"))
	if err != nil {
		b.Fatal(err)
	}
	builder := &Builder{Root: root, CacheFile: filepath.Join(b.TempDir(), "cache"), Now: func() time.Time { return time.Now().Add(time.Minute) }}
	run(b, builder)
	n := 0
	for b.Loop() {
		b.StopTimer()
		n++
		content := fmt.Sprintf("#!/bin/sh\necho %d\n", n)
		write("opt/one-file", content)
		write(dpkg.Dir+"/info/zz-one-file.list", "/opt/one-file\n")
		write(dpkg.Dir+"/info/zz-one-file.md5sums", fmt.Sprintf("%s  opt/one-file\n", md5hex(content)))
		write(dpkg.Dir+"/status", string(status)+fmt.Sprintf("Package: zz-one-file\nStatus: install ok installed\nArchitecture: all\nVersion: %d\n\n", n))
		b.StartTimer()
		if sum := run(b, builder); sum.Hashed != 1 {
			b.Fatalf("%d files hashed", sum.Hashed)
		}
	}
}

// BenchmarkSurvival checks the machine's own survival set.
func BenchmarkSurvival(b *testing.B) {
	machine(b)
	set, _, err := (&Builder{}).Build(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		missing, err := survival.Check(b.Context(), "/", set, survival.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(missing)), "missing")
	}
}

func copyTree(b *testing.B, from, to string) {
	b.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		b.Fatal(err)
	}
}
