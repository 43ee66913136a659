package main

import (
	"crypto/md5"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/fileid"
	"github.com/cordon-project/cordon/internal/trust"
	"github.com/cordon-project/cordon/internal/trust/dpkg"
	"github.com/cordon-project/cordon/test/bench/figures"
)

// trustSet builds the set of everything that is installed. Where the packages
// are dpkg's, a private copy of its database is put over the real one first, and
// a package is added to it and changed.
func (b *bench) trustSet() {
	var p *onefile
	if _, err := os.Stat("/" + dpkg.Dir + "/status"); err == nil {
		p = b.onefile()
		defer func() { _ = unix.Unmount("/"+dpkg.Dir, unix.MNT_DETACH) }() // the namespace takes it along in any case
	}
	time.Sleep(fileid.Settle + 500*time.Millisecond) // only files that have not changed for a while are known by their identity
	build := func(t *trust.Builder) (*cordon.TrustSet, trust.Summary) {
		set, sum, err := t.Build(b)
		check(err)
		return set, sum
	}
	var cold, cached, changed figures.Sample
	var warm *trust.Builder
	for i, began := 0, time.Now(); i < 3 && time.Since(began) < 20*time.Second; i++ {
		builder := func() *trust.Builder {
			return &trust.Builder{CacheFile: filepath.Join(b.disk, fmt.Sprintf("trust-%d.cache", i)), Self: []string{b.cordon}, Log: slog.New(slog.DiscardHandler)}
		}
		_, first := build(builder())
		warm = builder()
		_, second := build(warm)
		cold, cached = append(cold, first.Duration.Seconds()), append(cached, second.Duration.Seconds())
		if i == 0 {
			packages := 0
			for _, s := range first.Sources {
				packages += s.Packages
			}
			b.Figure("what is installed", "%d packages, %d contents; %d files to hash, %.0f MB", packages, first.Entries, first.Hashed, mb(first.HashedBytes))
		}
	}
	b.Figure("without a cache (the files as the kernel has them)", "%s s", cold.Spread("%.2f"))
	b.Figure("at a start, from the cache", "%s s", cached.Spread("%.2f"))
	if p == nil {
		b.Say("   left out: a change of one package, which is tried with dpkg's database only")
		return
	}
	for range 20 {
		want := p.change()
		set, sum := build(warm)
		if !set.Contains(want) || sum.Hashed > 1 {
			check(fmt.Errorf("the changed program is trusted: %t; files hashed: %d", set.Contains(want), sum.Hashed))
		}
		changed = append(changed, ms(sum.Duration))
	}
	b.Target("after a change of a package of one file", changed.Median() <= 100, "≤ 100 ms", "%s ms", changed.Spread("%.1f"))
	b.Say("   (an agent first waits until the database has been quiet for 200 ms)")
}

// onefile is a package that brought one file.
type onefile struct{ program, sums, status string }

// onefile puts a copy of dpkg's database over the real one, for this mount
// namespace only, and the package into it.
func (b *bench) onefile() *onefile {
	lies := "/" + dpkg.Dir
	point := b.mount("dpkg", "tmpfs", "mode=0755")
	check(os.CopyFS(point, os.DirFS(lies)))
	p := &onefile{
		program: filepath.Join(point, "one-file"), sums: filepath.Join(point, "info", "zz-cordon-bench.md5sums"), status: filepath.Join(point, "status"),
	}
	status := must(os.ReadFile(p.status))
	status = append(status, "Package: zz-cordon-bench\nStatus: install ok installed\nArchitecture: all\nVersion: 1\nDescription: bench\n\n"...)
	check(os.WriteFile(p.status, status, 0o644))
	check(os.WriteFile(strings.TrimSuffix(p.sums, "md5sums")+"list", []byte("/.\n"+p.program+"\n"), 0o644))
	check(unix.Mount(point, lies, "", unix.MS_BIND, ""))
	p.change()
	return p
}

// change brings another version of the package's one file and returns its
// digest. It writes what dpkg would, in its order.
func (p *onefile) change() cordon.Digest {
	c := must(enforce.NewCanary())
	check(c.WriteFile(p.program + ".new"))
	sum := md5.Sum(must(os.ReadFile(p.program + ".new")))
	check(os.WriteFile(p.sums+".new", fmt.Appendf(nil, "%x  %s\n", sum, p.program[1:]), 0o644))
	check(os.WriteFile(p.status+".new", must(os.ReadFile(p.status)), 0o644))
	for _, path := range []string{p.program, p.sums, p.status} {
		check(os.Rename(path+".new", path))
	}
	return c.Entry().Digest
}
