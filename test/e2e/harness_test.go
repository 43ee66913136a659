// Package e2e tests Cordon as its users have it: real processes of the built
// program, real tokens, real refusals by the kernel.
//
// Each test runs in a process and a mount namespace of its own, and agents
// enforce on a tmpfs that the test mounted there. Nothing else on the machine is judged.
package e2e

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
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/testkit/port"
)

const (
	insideVar = "CORDON_E2E_INSIDE"
	binaryVar = "CORDON_E2E_BINARY"
)

func TestMain(m *testing.M) {
	if os.Getenv(insideVar) != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "cordon-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary := filepath.Join(dir, "cordon")
	build := exec.Command("go", "build", "-o", binary, "github.com/cordon-project/cordon/cmd/cordon")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build cordon:", err)
		os.Exit(1)
	}
	_ = os.Setenv(binaryVar, binary) // the name is a good one
	code := m.Run()
	_ = os.RemoveAll(dir) // the tests are over
	os.Exit(code)
}

// ordinary is the limit of an ordinary test. It takes seconds; where there is much
// else to do it takes minutes, most of them to hash the machine's programs for a
// first trust set.
const ordinary = 10 * time.Minute

// patience returns when to give up waiting for what another process does: when the
// test's time is nearly over, which is the only limit that there need be.
func patience(t *testing.T) time.Time {
	if end, ok := t.Deadline(); ok {
		return end.Add(-20 * time.Second) // to say what was waited for
	}
	return time.Now().Add(ordinary)
}

// confined runs body in a child process with a private mount namespace.
func confined(t *testing.T, limit time.Duration, body func(t *testing.T)) {
	t.Helper()
	if os.Getenv(insideVar) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		body(t)
		return
	}
	if why := unable(); why != "" {
		t.Skip(why)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout="+limit.String(), fmt.Sprintf("-test.short=%v", testing.Short()))
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if testing.Verbose() {
		t.Logf("%s", out)
	}
}

// unable proves that the machine cannot run these tests.
func unable() string {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY)
	switch {
	case err == nil:
		_ = unix.Close(fd) // it watches nothing
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL): // not root, not built in
		return "fanotify cannot be used: " + err.Error()
	}
	return "" // then the test says what is wrong
}

// world is one server, one agent's directory and a scope.
type world struct {
	*testing.T
	dir, scope, addr string
	metrics          string // address; empty: off
	ttl              time.Duration
	limited          bool     // the server has its default limits
	extra            string   // more of its configuration
	audit            bool     // the agent counts what would be refused
	flags            []string // more of the agent's
	profile          profile
	client           *http.Client
	token            string
	server, agent    *process
}

type profile struct {
	URL, CAFile, TenantID, ClientID, ClientSecret, EnrollmentToken string
}

type action struct {
	ID, Type, Status, MachineID                string
	ErrorHResult                               int32
	CancellationRequestor, CancellationComment *string
	CreationDateTimeUtc, LastUpdateDateTimeUtc time.Time
}

func (a action) ended() bool { return a.Status != "Pending" && a.Status != "InProgress" }

type machine struct{ ID, ComputerDNSName, AADDeviceID, OSPlatform string }

// newWorld makes the directories and the scope; it starts nothing.
func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ce") // short: a socket's path is limited to 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, dir: dir, scope: filepath.Join(dir, "scope"), ttl: time.Hour, flags: []string{"--notices", "off"}} // they are not for who is logged in here
	if err := os.Mkdir(w.scope, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("cordon-e2e", w.scope, "tmpfs", 0, "mode=0755,size=32m"); err != nil {
		t.Fatal(err)
	}
	w.addr = w.address()
	t.Cleanup(func() {
		w.agent.stop(t)
		w.server.stop(t)
		_ = unix.Unmount(w.scope, unix.MNT_DETACH) // with the namespace at the latest
		_ = os.RemoveAll(dir)                      // the test is over
	})
	echo, err := os.ReadFile("/bin/echo")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(w.scope, "trusted"), echo, 0o755), os.WriteFile(filepath.Join(w.scope, "untrusted"), append(echo, 0), 0o755)); err != nil {
		t.Fatal(err)
	}
	return w
}

// address is one at which a server of the test can listen, and nobody else.
func (w *world) address() string {
	w.Helper()
	address, release, err := port.Keep()
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = release() }) // the test is over
	return address
}

// process is a running cordon with its log.
type process struct {
	cmd *exec.Cmd
	log *os.File
}

func (w *world) start(name string, args ...string) *process {
	w.Helper()
	log, err := os.OpenFile(filepath.Join(w.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.Fatal(err)
	}
	cmd := exec.Command(os.Getenv(binaryVar), args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	return &process{cmd, log}
}

// kill ends the process as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	_ = p.cmd.Wait()         // it was killed
	_ = p.log.Close()        // the process's own is another one
}

// stop ends it in order, if it runs.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if p == nil || p.cmd.ProcessState != nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended, which Wait tells
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("%s did not end well on SIGTERM: %v", p.cmd.Args[1], err)
	}
	_ = p.log.Close() // the process's own is another one
}

func (w *world) logOf(name string) string {
	data, _ := os.ReadFile(filepath.Join(w.dir, name+".log"))
	return string(data)
}

func (w *world) startServer() {
	w.Helper()
	config := filepath.Join(w.dir, "server.toml")
	metrics := w.metrics
	if metrics == "" {
		metrics = "off"
	}
	text := fmt.Sprintf("listen = %q\nmetrics_listen = %q\naction_ttl = %q\n", w.addr, metrics, w.ttl)
	if !w.limited { // the tests poll without mercy
		text += "[[limit]]\nper_minute = 1000000000\nper_hour = 1000000000\n"
	}
	text += w.extra
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
	data := filepath.Join(w.dir, "server")
	w.server = w.start("server", "server", "--data-dir", data, "--config", config)
	w.until("the server is ready", func() bool {
		if w.client == nil {
			text, err := os.ReadFile(filepath.Join(data, "bootstrap.json"))
			if err != nil || json.Unmarshal(text, &w.profile) != nil || w.profile.URL == "" {
				return false
			}
			pem, err := os.ReadFile(w.profile.CAFile)
			if err != nil {
				return false
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(pem)
			w.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 20 * time.Second}
		}
		resp, err := w.client.Get(w.profile.URL + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close() // only its status counts
		return resp.StatusCode == http.StatusOK
	})
	if w.token == "" {
		w.login()
	}
}

func (w *world) login() {
	w.Helper()
	resp, err := w.client.PostForm(w.profile.URL+"/"+w.profile.TenantID+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {w.profile.ClientID}, "client_secret": {w.profile.ClientSecret},
		"scope": {"https://api.securitycenter.microsoft.com/.default"},
	})
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // only read
	var t struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&t); err != nil || t.AccessToken == "" {
		w.Fatalf("no token: %v", err)
	}
	w.token = t.AccessToken
}

func (w *world) agentDir() string { return filepath.Join(w.dir, "agent") }

func (w *world) startAgent() {
	w.Helper()
	args := []string{"agent", "--server", w.profile.URL, "--ca-file", w.profile.CAFile, "--enrollment-token", w.profile.EnrollmentToken,
		"--data-dir", w.agentDir(), "--scope", "mount:" + w.scope, "--enforcer", "fanotify", "--rules", filepath.Join(w.dir, "trust.rules")}
	if w.audit {
		args = append(args, "--audit")
	}
	w.agent = w.start("agent", append(args, w.flags...)...)
}

// theMachine waits until the agent has enrolled.
func (w *world) theMachine() machine {
	w.Helper()
	var list struct{ Value []machine }
	w.until("the machine is enrolled", func() bool {
		status, _ := w.call(http.MethodGet, "/api/machines", "", &list)
		return status == http.StatusOK && len(list.Value) == 1
	})
	return list.Value[0]
}

// call does one request. Status 0 is a server that could not be reached.
func (w *world) call(method, path, body string, out any) (status int, text string) {
	w.Helper()
	req, err := http.NewRequest(method, w.profile.URL+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }() // only read
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	if out != nil && resp.StatusCode/100 == 2 {
		if err := json.Unmarshal(data, out); err != nil {
			w.Fatalf("%s: %v\n%s", path, err, data)
		}
	}
	return resp.StatusCode, string(data)
}

func (w *world) order(m machine, verb string) action {
	w.Helper()
	var a action
	if status, text := w.call(http.MethodPost, "/api/machines/"+m.ID+"/"+verb, `{"Comment":"e2e"}`, &a); status != http.StatusCreated {
		w.Fatalf("%s: %d %s", verb, status, text)
	}
	return a
}

func (w *world) ended(id string) action {
	w.Helper()
	var a action
	w.until("action "+id+" has ended", func() bool {
		status, _ := w.call(http.MethodGet, "/api/machineactions/"+id, "", &a)
		return status == http.StatusOK && a.ended()
	})
	return a
}

// succeeds orders something and waits until it is done.
func (w *world) succeeds(m machine, verb string) {
	w.Helper()
	if a := w.ended(w.order(m, verb).ID); a.Status != "Succeeded" {
		w.Fatalf("%s: %+v\n%s", verb, a, w.logOf("agent"))
	}
}

// restricted starts a server and an agent, whose machine it restricts.
func (w *world) restricted() machine {
	w.Helper()
	w.startServer()
	w.startAgent()
	m := w.theMachine()
	w.succeeds(m, "restrictCodeExecution")
	return m
}

// until asks again and again, because other processes are what it waits for: only
// their answers tell. It fails the test when its time is over.
func (w *world) until(what string, done func() bool) {
	w.Helper()
	for end := patience(w.T); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("waited until %s, in vain\n-- server\n%s\n-- agent\n%s", what, tail(w.logOf("server")), tail(w.logOf("agent")))
		}
	}
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// cordon runs a verb and returns what it printed and its exit code.
func (w *world) cordon(args ...string) (stdout, stderr string, code int) {
	w.Helper()
	cmd := exec.Command(os.Getenv(binaryVar), args...)
	cmd.Env = append(os.Environ(), "CORDON_PROFILE="+filepath.Join(w.dir, "server", "bootstrap.json"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// runs reports whether the kernel lets a program of the scope run.
func (w *world) runs(name string) bool {
	w.Helper()
	err := exec.Command(filepath.Join(w.scope, name), "x").Run()
	if err != nil && !errors.Is(err, unix.EPERM) {
		w.Fatalf("%s: %v", name, err)
	}
	return err == nil
}

func (w *world) mustBe(restricted bool) {
	w.Helper()
	if !w.runs("trusted") {
		w.Errorf("the trusted program is refused")
	}
	if w.runs("untrusted") == restricted {
		w.Errorf("restricted should be %v, but the untrusted program says otherwise", restricted)
	}
}
