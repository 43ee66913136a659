package clients

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/simulate"
	"github.com/cordon-project/cordon/internal/store/sqlite"
)

// The names by which programs call: one as an administrator would give it to a
// server, and those that programs have built in.
const ownName = "cordon.example.org"

var builtInNames = []string{
	"login.microsoftonline.com", "login.windows.net",
	"api.securitycenter.microsoft.com", "api.securitycenter.windows.com", "api.security.microsoft.com",
	"us.api.security.microsoft.com", "eu.api.security.microsoft.com", "api-us.securitycenter.microsoft.com",
	"login.microsoftonline.us",
}

// certifiedNames are built in too. For these the server has a certificate of
// another CA than its own.
var certifiedNames = []string{"api-gcc.securitycenter.microsoft.us", "api-gov.securitycenter.microsoft.us"}

// What the process that prepares the tests tells the one that runs them.
const (
	insideVar = "CORDON_CLIENTS_INSIDE" // a directory with the program and the Node modules
	npmVar    = "CORDON_CLIENTS_NPM"    // why the Node modules could not be installed
)

// unable says why the tests cannot run on this machine.
var unable string

func TestMain(m *testing.M) {
	if os.Getenv(insideVar) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare the private network:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if err := inPrivate(exec.Command("/bin/true")).Run(); errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) { // namespaces(7): not permitted, none left by a limit, not built in
		unable = "a process cannot have a network and mounts of its own here: " + err.Error()
		os.Exit(m.Run())
	}
	code, err := prepare()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// prepare does what needs the machine's network, and then runs the tests where
// there is none.
func prepare() (code int, err error) {
	dir, err := os.MkdirTemp("", "cordon-clients-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "cordon"), "github.com/cordon-project/cordon/cmd/cordon").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build cordon: %w\n%s", err, out)
	}
	if err := os.CopyFS(filepath.Join(dir, "node"), os.DirFS("node")); err != nil {
		return 0, err
	}
	npm := exec.Command("npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund")
	npm.Dir = filepath.Join(dir, "node")
	out, failed := npm.CombinedOutput()

	cmd := inPrivate(exec.Command("/proc/self/exe", os.Args[1:]...))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"="+dir)
	if failed != nil {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%v\n%s", npmVar, failed, out))
	}
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// inPrivate gives a command a network and mounts of its own, in a user
// namespace if that is what it takes.
func inPrivate(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// furnish gives the private network a loopback device, and all names to it.
func furnish() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // it only names the interface
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("switch on the loopback device: %w", err)
	}
	hosts := filepath.Join(os.Getenv(insideVar), "hosts")
	line := strings.Join(slices.Concat([]string{"127.0.0.1 localhost", ownName}, builtInNames, certifiedNames), " ")
	if err := os.WriteFile(hosts, []byte(line+"\n"), 0o644); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, "")
}

// world is a server that listens on 127.0.0.1, on a port of Cordon's and, by
// way of a relay, on that of HTTPS.
type world struct {
	*testing.T
	dir   string
	addr  string // of the server
	roots *x509.CertPool
	cas   []byte // the same, PEM
	boot  struct{ URL, CAFile, TenantID, EnrollmentToken string }
	http  *http.Client                              // knows the server's CA
	nodes map[string]func(call any) (answer, error) // see startNode

	playbooks        []application // one for each kind, because calls are counted by application; they may do all that playbooks need
	isolator, nobody application   // may do something else, and nothing
	hurried          application   // may read, and not more often than hurriedLimit
}

// application is what a program logs in with: one or the other.
type application struct {
	id, secret string
	*identity
}

// identity is a private key with its certificate.
type identity struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

func newIdentity(t *testing.T) *identity {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "playbooks"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err1 := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	cert, err2 := x509.ParseCertificate(der)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return &identity{key, cert}
}

const (
	port         = "8443"
	hurriedLimit = 3 // an hour
)

func newWorld(t *testing.T) *world {
	t.Helper()
	if unable != "" {
		t.Skip(unable)
	}
	w := &world{T: t, dir: t.TempDir(), addr: "127.0.0.1:" + port, nodes: make(map[string]func(any) (answer, error))}
	w.makeCertificate()
	w.startServer()()
	w.makeApplications()
	w.startServer()
	w.relay("127.0.0.1:443")
	return w
}

// startServer starts the server. It stops when the test ends, or when stop is called.
func (w *world) startServer() (stop func()) {
	w.Helper()
	config := fmt.Sprintf("listen = %q\nmetrics_listen = \"off\"\ntls_names = [%q, \"%s\"]\n", w.addr, ownName, strings.Join(builtInNames, `", "`))
	config += fmt.Sprintf("[[certificate]]\ncert = %q\nkey = %q\n", w.file("gov.crt"), w.file("gov.key"))
	if w.hurried.id != "" {
		config += fmt.Sprintf("[[limit]]\napplication = %q\nper_hour = %d\n", w.hurried.id, hurriedLimit)
	}
	file, data := filepath.Join(w.dir, "server.toml"), filepath.Join(w.dir, "server")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		w.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(w.dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = log.Close() }() // the server has its own
	cmd := exec.Command(filepath.Join(os.Getenv(insideVar), "cordon"), "server", "--data-dir", data, "--config", file)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended, which Wait tells
		if err := cmd.Wait(); err != nil {
			w.Errorf("the server did not end well on SIGTERM: %v", err)
		}
	})
	w.Cleanup(stop)
	// Another process, of which only an answer tells that it is ready.
	for end := time.Now().Add(time.Minute); !w.ready(data); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			text, _ := os.ReadFile(log.Name())
			w.Fatalf("the server is not ready after a minute:\n%s", text)
		}
	}
	return stop
}

func (w *world) ready(data string) bool {
	if w.http == nil {
		text, err := os.ReadFile(filepath.Join(data, "bootstrap.json"))
		if err != nil || json.Unmarshal(text, &w.boot) != nil || w.boot.URL == "" {
			return false
		}
		w.roots, w.cas = x509.NewCertPool(), nil
		for _, name := range []string{w.boot.CAFile, w.file("other-ca.crt")} {
			text, err := os.ReadFile(name)
			if err != nil {
				return false
			}
			w.roots.AppendCertsFromPEM(text)
			w.cas = append(w.cas, text...)
		}
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.roots}, ForceAttemptHTTP2: true}
		w.Cleanup(transport.CloseIdleConnections)
		w.http = &http.Client{Transport: transport, Timeout: 20 * time.Second}
	}
	resp, err := w.http.Get(w.boot.URL + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // only read
	return resp.StatusCode == http.StatusOK
}

// relay passes connections to addr on to the server, until the test ends.
func (w *world) relay(addr string) {
	w.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { w.join(ctx, client) })
		}
	})
	w.Cleanup(func() {
		cancel()
		_ = l.Close() // nobody connects any more
		work.Wait()
	})
}

// join connects client with the server until one of them hangs up.
func (w *world) join(ctx context.Context, client net.Conn) {
	server, err := net.Dial("tcp", w.addr)
	if err != nil {
		_ = client.Close() // which sees that nobody is there
		return
	}
	ctx, hangUp := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { _, _ = io.Copy(server, client); hangUp() }) // it ends with
	work.Go(func() { _, _ = io.Copy(client, server); hangUp() }) // the connections
	<-ctx.Done()
	hangUp()
	_ = client.Close() // one of them
	_ = server.Close() // has hung up
	work.Wait()
}

// makeApplications makes the world's applications. The server must not run: a
// store is open once.
func (w *world) makeApplications() {
	w.Helper()
	store, err := sqlite.Open(w.Context(), filepath.Join(w.dir, "server", "cordon.db"))
	if err != nil {
		w.Fatal(err)
	}
	who := newIdentity(w.T)
	certificate, err := cordon.ParseCertificate(who.cert.Raw, time.Now())
	if err != nil {
		w.Fatal(err)
	}
	put := func(name string, permissions ...cordon.Permission) application {
		app := application{uuid.NewString(), rand.Text() + "~+/&=% " + rand.Text(), who}
		err = errors.Join(err, store.PutApplication(w.Context(), cordon.Application{
			ClientID: app.id, ObjectID: uuid.NewString(), DisplayName: name, Secrets: []cordon.Secret{cordon.NewSecret(uuid.NewString(), app.secret, time.Now(), nil)},
			Certificates: []cordon.Certificate{certificate}, Permissions: permissions, Created: time.Now(),
		}))
		return app
	}
	for range kinds {
		w.playbooks = append(w.playbooks, put("Playbook", cordon.MachineReadAll, cordon.MachineRestrict, cordon.AlertReadAll))
	}
	w.isolator = put("Isolator", cordon.MachineIsolate)
	w.nobody = put("Nobody")
	w.hurried = put("Hurried", cordon.MachineReadAll)
	if err := errors.Join(err, store.Close()); err != nil {
		w.Fatal(err)
	}
}

// machine is a simulated machine. A connected one takes up an order at once and
// waits for [machine.finish] to carry it out.
type machine struct {
	fleet   *simulate.Fleet
	release chan struct{}
	id      string
	name    string
}

// enrol makes a machine and, if it is to be, connects it until the test ends.
func (w *world) enrol(t *testing.T, name, platform string, connected bool) *machine {
	t.Helper()
	m := &machine{release: make(chan struct{}), name: name}
	var err error
	m.fleet, err = simulate.Enrol(t.Context(), simulate.Config{
		Server: w.boot.URL, Roots: w.roots, Token: w.boot.EnrollmentToken, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Facts: func(int) cordon.Facts { return cordon.Facts{DNSName: name, OSPlatform: platform, BootID: name} },
		Answer: func(ctx context.Context, _ simulate.Task) (cordon.ReportState, string) {
			select {
			case <-m.release:
			case <-ctx.Done():
			}
			return cordon.ReportSucceeded, ""
		},
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	m.id = string(m.fleet.Machines()[0])
	if connected {
		ctx, cancel := context.WithCancel(context.Background())
		var work sync.WaitGroup
		work.Go(func() { m.fleet.Run(ctx) })
		t.Cleanup(func() {
			cancel()
			work.Wait()
		})
	}
	return m
}

// finish lets the machine carry out the order that it has or is about to get,
// and waits until the server has the report.
func (m *machine) finish(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	reports := m.fleet.Stats().Reports
	select {
	case m.release <- struct{}{}:
	case <-ctx.Done():
		t.Fatalf("%s has not got an order", m.name)
	}
	if err := m.fleet.Wait(ctx, func(s simulate.Stats) bool { return s.Reports > reports }); err != nil {
		t.Fatalf("the server has not got the report of %s: %v", m.name, err)
	}
}
