// Command demo runs Cordon's main job for real on this machine and says what it
// sees: a server, an enrolled agent, a restriction through the API, a program
// that the kernel refuses, and the way back.
//
// It is confined: the agent enforces on one small tmpfs, mounted in a private
// mount namespace that ends with the demo. Nothing else on the machine is
// judged. What it starts it stops, and its directory is removed.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const insideVar = "CORDON_DEMO_INSIDE"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo PATH-OF-CORDON")
		os.Exit(2)
	}
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cordon string) error {
	switch {
	case os.Getenv(insideVar) != "":
		return demonstrate(ctx, cordon, true)
	case os.Geteuid() != 0:
		say("You are not root, so nothing can be enforced. The rest is shown with --enforcer none:")
		say("restrictions then end Failed, because nothing is restricted.")
		return demonstrate(ctx, cordon, false)
	}
	// Once more, in a mount namespace of its own.
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, cordon)
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); errors.Is(err, unix.EPERM) {
		say("This machine does not permit a private mount namespace (CAP_SYS_ADMIN is missing), so nothing can be")
		say("enforced safely. The rest is shown with --enforcer none.")
		return demonstrate(ctx, cordon, false)
	} else if err != nil {
		return err
	}
	return cmd.Wait()
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func step(format string, args ...any) { fmt.Printf("\n== "+format+"\n", args...) }

// demo is what the steps share.
type demo struct {
	cordon, dir, scope string
	profile            profile
	http               *http.Client
	token              string
	enforcing          bool
	stops              []func()
}

type profile struct {
	URL, CAFile, TenantID, ClientID, ClientSecret, EnrollmentToken string
}

type action struct {
	ID, Type, Status                           string
	CreationDateTimeUtc, LastUpdateDateTimeUtc time.Time
}

func demonstrate(ctx context.Context, cordon string, enforcing bool) (err error) {
	dir, err := os.MkdirTemp("", "cordon-demo-")
	if err != nil {
		return err
	}
	d := &demo{cordon: cordon, dir: dir, scope: filepath.Join(dir, "scope"), enforcing: enforcing}
	defer func() {
		for i := len(d.stops) - 1; i >= 0; i-- {
			d.stops[i]()
		}
		err = errors.Join(err, os.RemoveAll(dir))
		if err == nil {
			say("\nDone. Everything that was started has been stopped, and %s is removed.", dir)
		}
	}()
	for _, f := range []func(context.Context) error{d.server, d.place, d.agent, d.restrict, d.unrestrict} {
		if err := f(ctx); err != nil {
			return errors.Join(err, d.logs())
		}
	}
	return nil
}

// start runs cordon with args until the demo ends.
func (d *demo) start(name string, args ...string) error {
	out, err := os.Create(filepath.Join(d.dir, name+".log"))
	if err != nil {
		return err
	}
	cmd := exec.Command(d.cordon, args...)
	cmd.Stdout, cmd.Stderr = out, out
	// Should the demo die, so do they.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return err
	}
	d.stops = append(d.stops, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
		_ = cmd.Wait()                          // how it ended is in its log
		_ = out.Close()                         // only its log
	})
	return nil
}

// logs shows the ends of the logs when something went wrong.
func (d *demo) logs() error {
	for _, name := range []string{"server", "agent"} {
		if log, err := os.ReadFile(filepath.Join(d.dir, name+".log")); err == nil {
			say("\n-- the end of the %s's log\n%s", name, log[max(0, len(log)-3000):])
		}
	}
	return nil
}

func (d *demo) server(ctx context.Context) error {
	step("A server, on loopback, with an empty data directory")
	config := filepath.Join(d.dir, "server.toml")
	if err := os.WriteFile(config, []byte("listen = \"127.0.0.1:0\"\nmetrics_listen = \"off\"\n"), 0o600); err != nil {
		return err
	}
	data := filepath.Join(d.dir, "server")
	if err := d.start("server", "server", "--data-dir", data, "--config", config); err != nil {
		return err
	}
	err := wait(ctx, 30*time.Second, "the server is ready", func() bool {
		text, err := os.ReadFile(filepath.Join(data, "bootstrap.json"))
		if err != nil || json.Unmarshal(text, &d.profile) != nil || d.profile.URL == "" {
			return false
		}
		pem, err := os.ReadFile(d.profile.CAFile)
		if err != nil {
			return false
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		d.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 30 * time.Second}
		resp, err := d.http.Get(d.profile.URL + "/readyz")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	if err != nil {
		return err
	}
	say("   %s, tenant %s", d.profile.URL, d.profile.TenantID)
	resp, err := d.http.PostForm(d.profile.URL+"/"+d.profile.TenantID+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {d.profile.ClientID}, "client_secret": {d.profile.ClientSecret},
		"scope": {"https://api.securitycenter.microsoft.com/.default"},
	})
	if err != nil {
		return err
	}
	var t struct {
		AccessToken string `json:"access_token"`
	}
	if err := decode(resp, http.StatusOK, &t); err != nil {
		return err
	}
	d.token = t.AccessToken
	say("   a client took an access token of %d bytes, as it would from Entra ID", len(d.token))
	return nil
}

// place makes the scope with two programs in it: one whose content the package
// manager vouches for, and one that differs from it by a single byte.
func (d *demo) place(context.Context) error {
	if err := os.Mkdir(d.scope, 0o755); err != nil {
		return err
	}
	if d.enforcing {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := unix.Mount("cordon-demo", d.scope, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=16m"); err != nil {
			return fmt.Errorf("mount scope: %w", err)
		}
		d.stops = append(d.stops, func() { _ = unix.Unmount(d.scope, unix.MNT_DETACH) }) // the namespace takes it along in any case
	}
	program, err := os.ReadFile("/bin/echo")
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("trusted"), program, 0o755); err != nil {
		return err
	}
	return os.WriteFile(d.path("untrusted"), append(program, 0), 0o755)
}

func (d *demo) path(name string) string { return filepath.Join(d.scope, name) }

func (d *demo) agent(ctx context.Context) error {
	step("An agent on this machine")
	enforcer := "auto"
	if !d.enforcing {
		enforcer = "none"
	}
	args := []string{"agent", "--server", d.profile.URL, "--ca-file", d.profile.CAFile, "--enrollment-token", d.profile.EnrollmentToken,
		"--data-dir", filepath.Join(d.dir, "agent"), "--scope", "mount:" + d.scope, "--enforcer", enforcer, "--rules", filepath.Join(d.dir, "trust.rules"),
		"--notices", "off"} // it is one mount that is restricted, for a moment
	if err := d.start("agent", args...); err != nil {
		return err
	}
	var machines struct {
		Value []struct{ ID, ComputerDNSName, OSPlatform, Version string }
	}
	err := wait(ctx, 30*time.Second, "the machine is enrolled", func() bool {
		return d.call(http.MethodGet, "/api/machines", "", http.StatusOK, &machines) == nil && len(machines.Value) == 1
	})
	if err != nil {
		return err
	}
	m := machines.Value[0]
	say("   %s (%s %s) enrolled as %s", m.ComputerDNSName, m.OSPlatform, m.Version, m.ID)
	var s struct {
		Observed struct {
			Enforcer string
			Limits   []string
			Trusted  int
		}
	}
	began := time.Now()
	err = wait(ctx, 2*time.Minute, "the trust set is built", func() bool {
		status, err := exec.CommandContext(ctx, d.cordon, "agent", "status", "--json", "--data-dir", filepath.Join(d.dir, "agent")).Output()
		return err == nil && json.Unmarshal(status, &s) == nil && (s.Observed.Trusted > 0 || s.Observed.Enforcer == "none")
	})
	if err != nil {
		return err
	}
	if s.Observed.Enforcer == "none" && d.enforcing {
		d.enforcing = false
		say("   NOTHING CAN BE ENFORCED HERE. %s", strings.Join(s.Observed.Limits, " "))
	}
	say("   enforcer: %s", s.Observed.Enforcer)
	if d.enforcing {
		say("   trust set: %d programs of this machine's packages, built in %s", s.Observed.Trusted, time.Since(began).Round(100*time.Millisecond))
	}
	return errors.Join(d.try("trusted", true), d.try("untrusted", true))
}

// try runs one of the two programs and says whether the kernel let it.
func (d *demo) try(name string, may bool) error {
	out, err := exec.Command(d.path(name), "it runs").CombinedOutput()
	switch {
	case err == nil && may:
		say("   %-9s → %s", name, strings.TrimSpace(string(out)))
	case errors.Is(err, unix.EPERM) && !may:
		say("   %-9s → refused by the kernel (%v)", name, unix.EPERM)
	default:
		return fmt.Errorf("%s: got %v, %s", name, err, out)
	}
	return nil
}

func (d *demo) restrict(ctx context.Context) error {
	step("POST /api/machines/{id}/restrictCodeExecution")
	want := "Succeeded"
	if !d.enforcing {
		want = "Failed"
	}
	a, err := d.order(ctx, "restrictCodeExecution", want)
	if err != nil {
		return err
	}
	if !d.enforcing {
		say("   which is the truth: nothing is enforced here")
		return errors.Join(d.try("trusted", true), d.try("untrusted", true))
	}
	if err := errors.Join(d.try("trusted", true), d.try("untrusted", false)); err != nil {
		return err
	}
	step("Is the report genuine?")
	out, err := exec.CommandContext(ctx, d.cordon, "actions", "verify", a.ID, "--profile", filepath.Join(d.dir, "server", "bootstrap.json")).CombinedOutput()
	fmt.Print("   ", strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "\n   "), "\n")
	return err
}

func (d *demo) unrestrict(ctx context.Context) error {
	step("POST /api/machines/{id}/unrestrictCodeExecution")
	if _, err := d.order(ctx, "unrestrictCodeExecution", "Succeeded"); err != nil {
		return err
	}
	return errors.Join(d.try("trusted", true), d.try("untrusted", true))
}

// order asks for an action on the one machine and waits until it has ended.
func (d *demo) order(ctx context.Context, verb, want string) (a action, err error) {
	var machines struct{ Value []struct{ ID string } }
	if err := d.call(http.MethodGet, "/api/machines?$top=1", "", http.StatusOK, &machines); err != nil {
		return a, err
	}
	if err := d.call(http.MethodPost, "/api/machines/"+machines.Value[0].ID+"/"+verb, `{"Comment":"Cordon demo"}`, http.StatusCreated, &a); err != nil {
		return a, err
	}
	say("   201, action %s is %s", a.ID, a.Status)
	err = wait(ctx, 2*time.Minute, "the action has ended", func() bool {
		return d.call(http.MethodGet, "/api/machineactions/"+a.ID, "", http.StatusOK, &a) != nil || a.Status != "Pending" && a.Status != "InProgress"
	})
	if err != nil {
		return a, err
	}
	say("   %s, %s after it was created", a.Status, a.LastUpdateDateTimeUtc.Sub(a.CreationDateTimeUtc).Round(100*time.Microsecond))
	if a.Status != want {
		return a, fmt.Errorf("the action ended %s, expected was %s", a.Status, want)
	}
	return a, nil
}

func (d *demo) call(method, path, body string, want int, out any) error {
	req, err := http.NewRequest(method, d.profile.URL+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+d.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return err
	}
	return decode(resp, want, out)
}

func decode(resp *http.Response, want int, out any) error {
	defer func() { _ = resp.Body.Close() }() // read to its end below
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != want {
		return fmt.Errorf("%s answered %s: %s", resp.Request.URL.Path, resp.Status, bytes.TrimSpace(data))
	}
	return json.Unmarshal(data, out)
}

// wait polls until done says so.
func wait(ctx context.Context, most time.Duration, what string, done func() bool) error {
	for end := time.Now().Add(most); !done(); {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(end):
			return fmt.Errorf("waited %s until %s, in vain", most, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}
