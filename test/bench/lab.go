package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/agent"
	"github.com/cordon-project/cordon/internal/bootstrap"
	"github.com/cordon-project/cordon/mde"
)

// lab is where the bench works: two directories, and the processes and mounts
// that end with it.
type lab struct {
	cordon string
	disk   string // a directory on a disk, for what has to be durable
	mounts string // a directory that only root can change on its whole path, for mount points
	stops  []func() error

	running *process // the server
	address string
	boot    bootstrap.File
	roots   *x509.CertPool
	client  *mde.Client
}

func (l *lab) open() (err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if l.cordon, err = filepath.Abs(l.cordon); err != nil {
		return err
	}
	for _, d := range []struct {
		path *string
		in   string
	}{{&l.disk, "/var/tmp"}, {&l.mounts, "/run"}} { // hier(7): the first keeps what is in it, so it is on a disk
		if *d.path, err = os.MkdirTemp(d.in, "cordon-bench-"); err != nil {
			return errors.Join(err, l.close())
		}
		dir := *d.path
		l.stops = append(l.stops, func() error { return os.RemoveAll(dir) })
	}
	return nil
}

// close undoes everything, the last first.
func (l *lab) close() (err error) {
	for i := len(l.stops) - 1; i >= 0; i-- {
		err = errors.Join(err, l.stops[i]())
	}
	l.stops = nil
	return err
}

// mount mounts a file system at a new directory of that name.
func (l *lab) mount(name, source, fstype string, flags uintptr, data string) (string, error) {
	point := filepath.Join(l.mounts, name)
	if err := os.Mkdir(point, 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount(source, point, fstype, flags, data); err != nil {
		return "", fmt.Errorf("mount %s: %w", fstype, err)
	}
	l.stops = append(l.stops, func() error { return errors.Join(unix.Unmount(point, unix.MNT_DETACH), os.Remove(point)) })
	return point, nil
}

// process is one that the lab has started; stop ends it, once.
type process struct {
	*exec.Cmd
	stop func() error
}

// start runs a command until it is stopped or the lab closes.
func (l *lab) start(log, name string, args ...string) (*process, error) {
	out, err := os.Create(filepath.Join(l.disk, log+".log"))
	if err != nil {
		return nil, err
	}
	p := &process{Cmd: exec.Command(name, args...)}
	p.Stdout, p.Stderr = out, out
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := p.Start(); err != nil {
		return nil, err
	}
	stopped := false
	p.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		_ = p.Process.Signal(syscall.SIGTERM) // it may have ended already
		kill := time.AfterFunc(30*time.Second, func() { _ = p.Process.Kill() })
		defer kill.Stop()
		_ = p.Wait() // how it ends is of no interest any more
		return out.Close()
	}
	l.stops = append(l.stops, p.stop)
	return p, nil
}

// tail is the end of a log, for an error.
func (l *lab) tail(log string) string {
	text, err := os.ReadFile(filepath.Join(l.disk, log+".log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-1500):])
}

// server starts a server on the lab's one data directory. A second one, after
// the first was stopped, has the same address.
func (l *lab) server(ctx context.Context) (*process, error) {
	if l.address == "" {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		l.address = free.Addr().String()
		if err := free.Close(); err != nil {
			return nil, err
		}
	}
	config := filepath.Join(l.disk, "server.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "listen = %q\nmetrics_listen = \"off\"\n", l.address), 0o600); err != nil {
		return nil, err
	}
	data := filepath.Join(l.disk, "server")
	p, err := l.start("server", l.cordon, "server", "--data-dir", data, "--config", config)
	if err != nil {
		return nil, err
	}
	l.running = p
	return p, wait(ctx, time.Minute, "the server is ready", func() (bool, error) {
		text, err := os.ReadFile(filepath.Join(data, bootstrap.FileName))
		if err != nil || json.Unmarshal(text, &l.boot) != nil || l.boot.URL == "" {
			return false, nil
		}
		pem, err := os.ReadFile(l.boot.CAFile)
		if err != nil {
			return false, err
		}
		l.roots = x509.NewCertPool()
		l.roots.AppendCertsFromPEM(pem)
		t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: l.roots}, MaxIdleConnsPerHost: 64} // HTTP/1.1, as curl and the SDKs
		l.client, err = mde.New(mde.Config{
			BaseURL: l.boot.URL, TenantID: l.boot.TenantID, ClientID: l.boot.ClientID, ClientSecret: l.boot.ClientSecret, HTTPClient: &http.Client{Transport: t},
		})
		if err != nil {
			return false, err
		}
		for _, err := range l.client.ListMachines(ctx, mde.ListOptions{}) {
			return err == nil, nil
		}
		return true, nil
	})
}

// endpoint is an agent that enforces on one mount.
type endpoint struct {
	*process
	local   *agent.Local
	machine string
}

// agent starts an agent that enforces on the mount, and waits until it is
// connected and has a trust set.
func (l *lab) agent(ctx context.Context, name, mount, rules string) (*endpoint, error) {
	dir, file := filepath.Join(l.disk, name), filepath.Join(l.disk, name+".rules")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		return nil, err
	}
	p, err := l.start(name, l.cordon, "agent", "--server", l.boot.URL, "--ca-file", l.boot.CAFile, "--enrollment-token", l.boot.EnrollmentToken,
		"--data-dir", dir, "--scope", "mount:"+mount, "--enforcer", "fanotify", "--rules", file)
	if err != nil {
		return nil, err
	}
	e := &endpoint{process: p, local: agent.DialLocal(dir)}
	if err := e.ready(ctx); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, l.tail(name))
	}
	return e, nil
}

// ready waits until the agent is connected and has a trust set.
func (e *endpoint) ready(ctx context.Context) error {
	return wait(ctx, time.Minute, "the agent is ready", func() (bool, error) {
		s, err := e.local.Status(ctx)
		e.machine = string(s.Machine)
		return err == nil && s.Transport != "" && s.Observed.TrustSet != "", nil
	})
}

// wait polls until done says so.
func wait(ctx context.Context, most time.Duration, what string, done func() (bool, error)) error {
	for end := time.Now().Add(most); ; time.Sleep(10 * time.Millisecond) {
		ok, err := done()
		switch {
		case ok || err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(end):
			return fmt.Errorf("waited %s until %s, in vain", most, what)
		}
	}
}
