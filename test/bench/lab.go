package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/bootstrap"
	"github.com/cordon-project/cordon/internal/local"
	"github.com/cordon-project/cordon/internal/testkit/port"
	"github.com/cordon-project/cordon/mde"
)

// lab is where the bench works, and the processes and mounts that end with it.
type lab struct {
	cordon string
	disk   string // a directory on a disk, for what has to be durable
	mounts string // a directory that only root can change, for mount points
	stops  []func() error

	address string // of the server
	running *process
	boot    bootstrap.File
	roots   *x509.CertPool
	client  *mde.Client
}

// close undoes everything, the last first.
func (l *lab) close() (err error) {
	for ; len(l.stops) > 0; l.stops = l.stops[:len(l.stops)-1] {
		err = errors.Join(err, l.stops[len(l.stops)-1]())
	}
	return err
}

// mount mounts a file system on a new directory of that name.
func (l *lab) mount(name, fstype, data string) string {
	point := filepath.Join(l.mounts, name)
	check(os.Mkdir(point, 0o755))
	l.mountAt(point, fstype, data)
	return point
}

func (l *lab) mountAt(point, fstype, data string) {
	if err := unix.Mount("cordon-bench", point, fstype, unix.MS_NOSUID, data); err != nil {
		check(fmt.Errorf("mount %s: %w", fstype, err))
	}
	l.stops = append(l.stops, func() error { return unix.Unmount(point, unix.MNT_DETACH) })
}

// process is one that the lab has started; stop ends it, once.
type process struct {
	*exec.Cmd
	stop func() error
}

// start runs a command until it is stopped or the lab closes, in a session of
// its own, as a service manager does.
func (l *lab) start(log, name string, args ...string) *process {
	out := must(os.Create(filepath.Join(l.disk, log+".log")))
	p := &process{Cmd: exec.Command(name, args...)}
	p.Stdout, p.Stderr = out, out
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setsid: true}
	check(p.Start())
	p.stop = sync.OnceValue(func() error {
		_ = p.Process.Signal(syscall.SIGTERM)                                        // it may have ended already
		defer time.AfterFunc(30*time.Second, func() { _ = p.Process.Kill() }).Stop() // it may have ended
		_ = p.Wait()                                                                 // how it ends is of no interest any more
		return out.Close()
	})
	l.stops = append(l.stops, p.stop)
	return p
}

// await polls until done says so, for a minute at most, and then shows the end
// of the log of who did not make it true.
func (l *lab) await(ctx context.Context, log, what string, done func() bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for ; !done(); time.Sleep(10 * time.Millisecond) {
		if ctx.Err() != nil {
			text := must(os.ReadFile(filepath.Join(l.disk, log+".log")))
			check(fmt.Errorf("wait until %s: %w\n%s", what, ctx.Err(), text[max(0, len(text)-1500):]))
		}
	}
}

// asUnit is the nice value that weighs as much as the packaged units do: ten
// times the usual (CPUWeight=, systemd.resource-control(5)).
const asUnit = -10

// server starts a server on the lab's one data directory. A second one, after
// the first was stopped, has the same address.
func (l *lab) server(ctx context.Context) {
	if l.address == "" {
		address, release, err := port.Keep()
		check(err)
		l.address = address
		l.stops = append(l.stops, release)
	}
	config, data := filepath.Join(l.disk, "server.toml"), filepath.Join(l.disk, "server")
	check(os.WriteFile(config, fmt.Appendf(nil, "listen = %q\nmetrics_listen = \"off\"\n"+noLimits, l.address), 0o600))
	l.running = l.start("server", l.cordon, "server", "--data-dir", data, "--config", config)
	check(weigh(l.running.Process.Pid, asUnit))
	l.await(ctx, "server", "the server is ready", func() bool {
		text, err := os.ReadFile(filepath.Join(data, bootstrap.FileName))
		if err != nil || json.Unmarshal(text, &l.boot) != nil {
			return false
		}
		pem, err := os.ReadFile(l.boot.CAFile)
		l.roots = x509.NewCertPool()
		if err != nil || !l.roots.AppendCertsFromPEM(pem) {
			return false
		}
		// HTTP/1.1, as curl and the SDKs speak.
		web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: l.roots}, MaxIdleConnsPerHost: callers}, Timeout: time.Minute}
		l.client, err = mde.New(mde.Config{BaseURL: l.boot.URL, TenantID: l.boot.TenantID, ClientID: l.boot.ClientID, ClientSecret: l.boot.ClientSecret, HTTPClient: web})
		if err == nil {
			_, err = l.client.GetAction(ctx, "00000000-0000-0000-0000-000000000000")
		}
		var no *mde.Error
		return errors.As(err, &no) && no.Code == mde.CodeResourceNotFound
	})
}

// endpoint is an agent that enforces on one mount.
type endpoint struct {
	*process
	machine string
}

// agent starts an agent, and waits until it is connected and has a trust set.
func (l *lab) agent(ctx context.Context, name, mount, rules string) *endpoint {
	dir, file := filepath.Join(l.disk, name), filepath.Join(l.disk, name+".rules")
	check(os.WriteFile(file, []byte(rules), 0o600))
	e := &endpoint{process: l.start(name, l.cordon, "agent", "--server", l.boot.URL, "--ca-file", l.boot.CAFile, "--enrollment-token", l.boot.EnrollmentToken,
		"--data-dir", dir, "--scope", "mount:"+mount, "--enforcer", "fanotify", "--rules", file,
		"--notices", "off")} // they are not for who is logged in here
	check(weigh(e.Process.Pid, asUnit))
	client := local.Dial(dir)
	l.await(ctx, name, "the agent is ready", func() bool {
		s, err := client.Status(ctx)
		e.machine = string(s.Machine)
		return err == nil && s.Transport != "" && s.Observed.TrustSet != ""
	})
	return e
}

// noLimits lifts the limits of calls: they are not what is measured.
const noLimits = "[[limit]]\nper_minute = 1000000000\nper_hour = 1000000000\n"
