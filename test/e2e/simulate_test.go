package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// standIn starts "cordon simulate" and waits until it says how to reach it. It
// is interrupted when the test ends, must end well, and leave nothing behind.
func standIn(t *testing.T, args ...string) (w *world, env map[string]string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(os.Getenv(binaryVar), append([]string{"simulate"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	var log bytes.Buffer
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT) // it may have ended, which Wait tells
		if err := cmd.Wait(); err != nil {
			t.Errorf("it did not end well: %v", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("it left %v behind, %v", left, err)
		}
		if text := log.String(); !strings.Contains(text, " machines at https://localhost:") || strings.Contains(text, "level=") {
			t.Errorf("it said:\n%s", text)
		}
	})
	env = make(map[string]string)
	for lines := bufio.NewScanner(stdout); env["CORDON_ENROLLMENT_TOKEN"] == "" && lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), "=")
		env[name] = value
	}
	pem, err := os.ReadFile(env["CORDON_CA_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	w = &world{T: t, dir: dir, client: &http.Client{Transport: transport, Timeout: 20 * time.Second}, profile: profile{
		URL: env["CORDON_URL"], TenantID: env["CORDON_TENANT_ID"], ClientID: env["CORDON_CLIENT_ID"], ClientSecret: env["CORDON_CLIENT_SECRET"],
	}}
	w.login()
	return w, env
}

// asks posts to a machine and compares status and error code.
func (w *world) asks(path string, status int, code string) (a action) {
	w.Helper()
	got, text := w.call(http.MethodPost, path, `{"Comment":"e2e"}`, &a)
	if got != status || code != "" && !strings.Contains(text, `{"error":{"code":"`+code+`",`) {
		w.Errorf("%s: %d %s, want %d %s", path, got, text, status, code)
	}
	return a
}

// TestSimulate reaches every status, with a plain HTTP client, as the table of
// the help says, and while 72 hours pass in 18 seconds.
func TestSimulate(t *testing.T) {
	if os.Getenv(insideVar) != "" {
		t.Skip("needs no confinement")
	}
	w, _ := standIn(t, "--machines", "2", "--clock-rate", "14400", "--latency", "0s")
	asked := make(map[string]string) // action → what is to become of it
	ask := func(machine, verb, want string) action {
		a := w.asks("/api/machines/"+machine+".sim.example/"+verb, http.StatusCreated, "")
		if a.Status != "Pending" || time.Since(a.CreationDateTimeUtc).Abs() > time.Minute {
			t.Errorf("%s %s: %s, at %s; times are not to be simulated", verb, machine, a.Status, a.CreationDateTimeUtc)
		}
		asked[a.ID] = want
		return a
	}
	ask("succeeds", "restrictCodeExecution", "Succeeded")
	ask("linux", "restrictCodeExecution", "Succeeded")
	ask("fails", "restrictCodeExecution", "Failed")
	ask("stuck", "restrictCodeExecution", "InProgress TimeOut")
	ask("silent", "restrictCodeExecution", "Pending TimeOut")
	ask("offline", "unrestrictCodeExecution", "Pending TimeOut")
	ask("waits", "unrestrictCodeExecution", "Pending TimeOut")
	w.asks("/api/machines/silent.sim.example/restrictCodeExecution", http.StatusBadRequest, "ActiveRequestAlreadyExists")
	w.asks("/api/machines/macos.sim.example/restrictCodeExecution", http.StatusBadRequest, "OsPlatformNotSupported")
	w.asks("/api/machines/outdated.sim.example/restrictCodeExecution", http.StatusBadRequest, "ClientVersionNotSupported")
	w.asks("/api/machines/twin.sim.example/restrictCodeExecution", http.StatusBadRequest, "")
	w.asks("/api/machines/nobody.sim.example/restrictCodeExecution", http.StatusNotFound, "ResourceNotFound")
	if a := w.asks("/api/machineactions/"+ask("offline", "restrictCodeExecution", "Cancelled").ID+"/cancel", http.StatusOK, ""); a.Status != "Cancelled" {
		t.Errorf("a machine that is offline: %s", a.Status)
	}
	w.asks("/api/machineactions/"+ask("waits", "restrictCodeExecution", "Cancelled").ID+"/cancel", http.StatusOK, "")

	ask("slow", "restrictCodeExecution", "InProgress Succeeded")
	for end := patience(t); ; time.Sleep(250 * time.Millisecond) { // the limit is 100 calls a minute
		var list struct{ Value []action }
		if status, text := w.call(http.MethodGet, "/api/machineactions", "", &list); status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
		if !slices.ContainsFunc(list.Value, func(a action) bool { return !a.ended() }) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not all have ended: %+v", list.Value)
		}
	}
	// What they went through is in the audit log, however seldom one looks.
	for id, want := range asked {
		var evidence struct{ Entries []struct{ Status string } }
		if status, text := w.call(http.MethodGet, "/cordon/v1/actions/"+id+"/evidence", "", &evidence); status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
		var got []string
		for _, e := range evidence.Entries {
			got = append(got, e.Status)
		}
		for _, status := range strings.Fields(want) {
			if !slices.Contains(got, status) {
				t.Errorf("an action became %v, want %s", got, want)
			}
		}
		if fields := strings.Fields(want); len(got) == 0 || got[len(got)-1] != fields[len(fields)-1] {
			t.Errorf("an action became %v, want %s", got, want)
		}
	}
}

// TestSimulateClients has what a program meets besides machines.
func TestSimulateClients(t *testing.T) {
	if os.Getenv(insideVar) != "" {
		t.Skip("needs no confinement")
	}
	w, env := standIn(t, "--machines", "0", "--clock-rate", "259200")

	// Tokens live by the real clock, whatever the actions' waiting does.
	if expires := time.Until(expiry(t, w.token)); expires < 50*time.Minute || expires > 70*time.Minute {
		t.Errorf("a token expires in %s", expires)
	}
	good := w.token
	w.token = env["CORDON_EXPIRED_TOKEN"]
	if expires := time.Until(expiry(t, w.token)); expires > 0 {
		t.Errorf("the expired token expires in %s", expires)
	}
	if status, text := w.call(http.MethodGet, "/api/machines", "", nil); status != http.StatusUnauthorized || !strings.Contains(text, `"code":"Unauthorized"`) {
		t.Errorf("an expired token: %d %s", status, text)
	}

	w.profile.ClientID, w.profile.ClientSecret = env["CORDON_READER_CLIENT_ID"], env["CORDON_READER_CLIENT_SECRET"]
	w.login()
	if status, text := w.call(http.MethodGet, "/api/machines", "", nil); status != http.StatusOK {
		t.Errorf("the reader: %d %s", status, text)
	}
	w.asks("/api/machines/succeeds.sim.example/restrictCodeExecution", http.StatusForbidden, "Forbidden")

	w.profile.ClientID, w.profile.ClientSecret = env["CORDON_THROTTLED_CLIENT_ID"], env["CORDON_THROTTLED_CLIENT_SECRET"]
	w.login()
	for i, want := range []int{200, 200, 429} {
		if status, text := w.call(http.MethodGet, "/api/machines", "", nil); status != want {
			t.Errorf("call %d of the throttled one: %d %s", i+1, status, text)
		}
	}

	// Machines of another seed join, and go.
	w.token = good
	join := exec.Command(os.Getenv(binaryVar), "simulate", "--server", w.profile.URL, "--ca-file", env["CORDON_CA_FILE"], "--enrollment-token", env["CORDON_ENROLLMENT_TOKEN"],
		"--machines", "3", "--seed", "2", "--for", "1ms")
	if out, err := join.CombinedOutput(); err != nil || !strings.Contains(string(out), "15 machines at "+w.profile.URL) {
		t.Errorf("join: %v\n%s", err, out)
	}
	var list struct{ Value []machine }
	if status, text := w.call(http.MethodGet, "/api/machines", "", &list); status != http.StatusOK || len(list.Value) != 12+15 {
		t.Errorf("%d machines: %d %s", len(list.Value), status, text)
	}
}

func TestSimulateEnvFile(t *testing.T) {
	if os.Getenv(insideVar) != "" {
		t.Skip("needs no confinement")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "sim.env")
	if err := os.WriteFile(file, []byte("CORDON_SIMULATED_MACHINES=1\nCORDON_URL=https://localhost:1\n"), 0o600); err != nil { // an earlier run was killed
		t.Fatal(err)
	}
	cmd := exec.Command(os.Getenv(binaryVar), "simulate", "--machines", "1", "--env-file", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text []byte
	for end := patience(t); !bytes.Contains(text, []byte("CORDON_SIMULATED_MACHINES=13\n")); time.Sleep(5 * time.Millisecond) { // the file is all that tells
		if text, _ = os.ReadFile(file); time.Now().After(end) {
			t.Fatalf("the file has %q", text)
		}
	}
	// What it says is all that the other verbs need.
	shell := exec.Command("sh", "-ec", `set -a; . "$1"; set +a; "$2" restrict fails.sim.example --comment e2e --wait`, "sh", file, os.Getenv(binaryVar))
	out, err := shell.CombinedOutput()
	if shell.ProcessState.ExitCode() != 7 || !bytes.Contains(out, []byte("Failed")) {
		t.Errorf("%v\n%s", err, out)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended, which Wait tells
	if err := cmd.Wait(); err != nil {
		t.Errorf("it did not end well: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v behind, %v", left, err)
	}
}

// expiry reads a token as clients do that do not wait for a refusal.
func expiry(t *testing.T, token string) time.Time {
	t.Helper()
	var claims struct{ Exp int64 }
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no token", token)
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(data, &claims) != nil {
		t.Fatalf("%q is no token", token)
	}
	return time.Unix(claims.Exp, 0)
}
