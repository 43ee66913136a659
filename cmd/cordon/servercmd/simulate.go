package servercmd

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/bootstrap"
	"github.com/cordon-project/cordon/internal/cli"
	"github.com/cordon-project/cordon/internal/config"
	"github.com/cordon-project/cordon/internal/oauth"
	"github.com/cordon-project/cordon/internal/simulate"
	"github.com/cordon-project/cordon/internal/uplink"
)

// Simulate is "cordon simulate", to be embedded in the grammar of the command.
type Simulate struct {
	Machines  int            `default:"20" placeholder:"N" help:"Simulate this many machines besides those with a role (default ${default})."`
	OS        simulate.Mix   `name:"os" default:"windows=70,linux=20,macos=10" sep:"none" placeholder:"KIND=WEIGHT,…" help:"Their systems (default ${default})."`
	Latency   simulate.Span  `default:"100ms-500ms" placeholder:"DURATION[-DURATION]" help:"How long they take to answer (default ${default})."`
	Fail      simulate.Share `default:"0%" placeholder:"SHARE" help:"Share of their orders that ends Failed (default ${default})."`
	Silent    simulate.Share `default:"0%" placeholder:"SHARE" help:"Share of their orders that is never answered (default ${default})."`
	Offline   simulate.Share `default:"0%" placeholder:"SHARE" help:"Share of the machines that never connects (default ${default})."`
	Seed      uint64         `default:"1" placeholder:"NUMBER" help:"Names, ids and outcomes follow from it (default ${default})."`
	For       time.Duration  `placeholder:"DURATION" help:"End this long after all is ready, rather than at an interrupt."`
	ClockRate float64        `placeholder:"RATE" help:"An action waits for its machine for 72 hours divided by this (default 8640: 30 seconds)."`
	Listen    string         `placeholder:"ADDR" help:"Listen on this address (default 127.0.0.1:0, a free port)."`
	TLSName   []string       `name:"tls-name" placeholder:"NAME" sep:"none" help:"Make the TLS certificate valid for this DNS name or IP address too. May be repeated."`
	EnvFile   string         `type:"path" placeholder:"FILE" help:"When all is ready, write here, rather than to standard output, how to reach it; removed at the end."`

	Server          string `placeholder:"URL" help:"Run no server: let the machines join the one at https://host[:port], for which they are real."`
	CAFile          string `name:"ca-file" type:"path" placeholder:"FILE" help:"With --server: trust this CA for it (PEM). Without it, the system's."`
	EnrollmentToken string `env:"CORDON_ENROLLMENT_TOKEN" placeholder:"TOKEN" help:"With --server: its enrolment token."`
}

// Help has the table of what behaves how.
func (Simulate) Help() string {
	var b strings.Builder
	b.WriteString(`It ends at an interrupt and leaves nothing behind. Until then it prints how to reach it, as variables for a shell, which the other verbs take too. Besides CORDON_CLIENT_ID, which may do everything, there is an application that may only read (CORDON_READER_…), one that may call each API twice a minute (CORDON_THROTTLED_…), and a token that has expired (CORDON_EXPIRED_TOKEN).

These machines are always there, all in ` + simulate.Domain[1:] + `:
`)
	for _, r := range simulate.Roles {
		fmt.Fprintf(&b, "\n    %-9s %-9s %s", r.Name, r.Platform, r.Does)
	}
	return b.String()
}

// The rates between which waiting still means something.
const (
	defaultClockRate = 8640 // a day passes in ten seconds
	maxClockRate     = 72 * 3600
)

func (c Simulate) check() error {
	wrong := func(hint, format string, args ...any) error {
		return &cli.Error{Code: cli.ExitUsage, Message: fmt.Sprintf(format, args...), Hint: hint}
	}
	switch {
	case c.Machines < 0 || c.Machines > 10_000:
		return wrong("", "--machines has to be from 0 to 10000")
	case c.Fail+c.Silent > 1:
		return wrong("", "--fail and --silent are more than all orders together")
	case c.For < 0:
		return wrong("", "--for is negative")
	case c.ClockRate != 0 && !(c.ClockRate >= 1 && c.ClockRate <= maxClockRate):
		return wrong(fmt.Sprintf("with %d, 72 hours pass in a second", maxClockRate), "--clock-rate has to be from 1 to %d", maxClockRate)
	case c.Server == "" && c.CAFile != "":
		return wrong("", "--ca-file has no meaning without --server")
	case c.Server == "":
		return nil
	case c.ClockRate != 0 || c.Listen != "" || c.TLSName != nil || c.EnvFile != "":
		return wrong("leave --server out to get a server made for the purpose", "--clock-rate, --listen, --tls-name and --env-file are for a server of its own, not for the one of --server")
	case c.EnrollmentToken == "":
		return wrong("pass --enrollment-token with the server's, see its bootstrap.json", "--server needs an enrolment token")
	}
	return nil
}

// Run simulates until the context ends.
func (c Simulate) Run(ctx context.Context, env *cli.Env) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	f := fleet{plan: simulate.Plan{
		Seed: c.Seed, Machines: c.Machines, OS: c.OS, Offline: c.Offline, Fail: c.Fail, Silent: c.Silent, Latency: c.Latency,
	}, lasts: c.For, env: env, log: slog.New(slog.NewTextHandler(env.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if c.Server != "" {
		f.server, f.token, f.caFile = c.Server, c.EnrollmentToken, c.CAFile
		return f.run(ctx, func() error { return nil })
	}
	return c.standIn(ctx, f)
}

// standIn runs a server for the fleet, in a directory that ends with it.
func (c Simulate) standIn(ctx context.Context, f fleet) (err error) {
	if c.EnvFile != "" {
		if err := claim(c.EnvFile); err != nil {
			return err
		}
	}
	rate := cmp.Or(c.ClockRate, defaultClockRate)
	scaled := func(d time.Duration) config.Duration {
		return config.Duration{Duration: time.Duration(float64(d) / rate)}
	}
	cfg, err := config.Load("", config.Server{
		Listen: cmp.Or(c.Listen, "127.0.0.1:0"), TLSNames: c.TLSName, MetricsListen: config.MetricsOff, ActionTTL: scaled(cordon.DefaultTTL),
	})
	if err != nil {
		return &cli.Error{Code: cli.ExitUsage, Message: err.Error()}
	}
	throttled, reader := newGuest("Throttled"), newGuest("Reader", cordon.MachineReadAll)
	throttled.Permissions = cordon.AllPermissions()
	cfg.Limits = []config.Limit{{Application: throttled.ClientID, PerMinute: 2}}
	dir, err := os.MkdirTemp("", "cordon-simulate-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := &Server{dir: dir, cfg: cfg, log: f.log, grace: scaled(cordon.DeliveredGrace).Duration, supports: simulate.Supports}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.open(ctx); err != nil {
		return err
	}
	boot, err := readBootstrap(dir)
	if err != nil {
		return err
	}
	expired, err := expiredToken(ctx, s.login, boot)
	if err != nil {
		return err
	}
	for _, g := range []guest{throttled, reader} {
		if err := s.Store.PutApplication(ctx, g.Application); err != nil {
			return err
		}
	}
	listener, err := s.listen()
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	served := make(chan error, 1)
	go func() {
		served <- s.serve(serving, listener)
		giveUp()
	}()
	f.server, f.token, f.caFile = s.url(listener), boot.EnrollmentToken, boot.CAFile
	err = f.run(ctx, func() error {
		return c.tell(f.env, []variable{
			{ready, fmt.Sprint(f.plan.Len())},
			{"CORDON_URL", f.server}, {"CORDON_CA_FILE", boot.CAFile}, {"CORDON_TENANT_ID", boot.TenantID},
			{"CORDON_CLIENT_ID", boot.ClientID}, {"CORDON_CLIENT_SECRET", boot.ClientSecret},
			{"CORDON_READER_CLIENT_ID", reader.ClientID}, {"CORDON_READER_CLIENT_SECRET", reader.secret},
			{"CORDON_THROTTLED_CLIENT_ID", throttled.ClientID}, {"CORDON_THROTTLED_CLIENT_SECRET", throttled.secret},
			{"CORDON_EXPIRED_TOKEN", expired}, {"CORDON_ENROLLMENT_TOKEN", boot.EnrollmentToken},
		})
	})
	stop()
	err = errors.Join(err, <-served)
	if c.EnvFile != "" {
		if gone := os.Remove(c.EnvFile); !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// sayAfter is how long to wait for all machines before saying how many there are.
const sayAfter = 10 * time.Second

// fleet is the machines on their way to a server.
type fleet struct {
	plan                  simulate.Plan
	lasts                 time.Duration // from when it is ready; zero: until ctx ends
	server, token, caFile string
	env                   *cli.Env
	log                   *slog.Logger
}

// run enrols and connects the machines, calls ready, and keeps them connected
// until that has lasted or ctx ends.
func (f fleet) run(ctx context.Context, ready func() error) error {
	roots, err := uplink.Roots(f.caFile)
	if err != nil {
		return err
	}
	away := f.plan.Away()
	machines, err := simulate.Enrol(ctx, simulate.Config{
		Server: f.server, Roots: roots, Token: f.token, Now: time.Now, Log: f.log,
		Key: f.plan.Key, Facts: f.plan.Facts(f.env.Version), Away: away, Answer: f.plan.Answer,
	}, f.plan.Len())
	if ctx.Err() != nil { // this is how it is meant to end
		return nil
	}
	if err != nil {
		return &cli.Error{Code: cli.ExitUnavailable, Message: err.Error(), Hint: "check the server's address, its CA file and the enrolment token"}
	}
	running, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	work.Go(func() { machines.Run(running) })
	present := 0
	for i := range f.plan.Len() {
		if !away(i) {
			present++
		}
	}
	for { // a machine that cannot connect tries again, for as long as it takes
		waiting, done := context.WithTimeout(ctx, sayAfter)
		err := machines.Wait(waiting, func(s simulate.Stats) bool { return s.Connected == present })
		done()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		_, _ = fmt.Fprintf(f.env.Stderr, "%d of %d machines are connected\n", machines.Stats().Connected, present) // only progress
	}
	_, _ = fmt.Fprintf(f.env.Stderr, "%d machines at %s, %d of them connected: %d with a role, and %s\n",
		f.plan.Len(), f.server, present, len(simulate.Roles), cmp.Or(f.plan.Count(), "no others")) // only progress, as above
	if err := ready(); err != nil {
		return err
	}
	if f.lasts > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.lasts)
		defer cancel()
	}
	<-ctx.Done()
	return nil
}

// guest is an application beside the first one.
type guest struct {
	cordon.Application
	secret string
}

func newGuest(name string, permissions ...cordon.Permission) guest {
	secret := rand.Text() + rand.Text()
	return guest{cordon.Application{
		ClientID: uuid.NewString(), ObjectID: uuid.NewString(), DisplayName: name, Secrets: []cordon.Secret{cordon.NewSecret(uuid.NewString(), secret, time.Now(), nil)},
		Permissions: permissions, Created: time.Now(),
	}, secret}
}

func readBootstrap(dir string) (boot bootstrap.File, err error) {
	data, err := os.ReadFile(filepath.Join(dir, bootstrap.FileName))
	if err == nil {
		err = json.Unmarshal(data, &boot)
	}
	return boot, err
}

// expiredToken is a token that the server gave out two hours ago, as far as
// anybody can tell.
func expiredToken(ctx context.Context, cfg oauth.Config, boot bootstrap.File) (string, error) {
	cfg.Now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
	login, err := oauth.New(cfg)
	if err != nil {
		return "", err
	}
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {boot.ClientID}, "client_secret": {boot.ClientSecret},
		"scope": {"https://api.securitycenter.microsoft.com/.default"},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://localhost/"+boot.TenantID+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer := page{header: make(http.Header)}
	login.ServeHTTP(&answer, req)
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(answer.Bytes(), &token); err != nil || token.AccessToken == "" {
		return "", fmt.Errorf("make an expired token: %s", answer.String())
	}
	return token.AccessToken, nil
}

// page is an answer that stays in this process.
type page struct {
	bytes.Buffer
	header http.Header
}

func (p *page) Header() http.Header { return p.header }
func (p *page) WriteHeader(int)     {}

// variable is a line of the environment.
type variable struct{ name, value string }

// ready is the first variable: who sees it knows that all the others are there,
// and that the file is ours to remove.
const ready = "CORDON_SIMULATED_MACHINES"

// tell writes how to reach the server, to the file at once or not at all.
func (c Simulate) tell(env *cli.Env, variables []variable) error {
	var b bytes.Buffer
	for _, v := range variables {
		if strings.Trim(v.value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:/._-") != "" {
			v.value = "'" + strings.ReplaceAll(v.value, "'", `'\''`) + "'"
		}
		fmt.Fprintf(&b, "%s=%s\n", v.name, v.value)
	}
	if c.EnvFile == "" {
		_, err := env.Stdout.Write(b.Bytes())
		return err
	}
	tmp := c.EnvFile + ".new"
	if err := os.WriteFile(tmp, b.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, c.EnvFile)
}

// claim takes away what an earlier run left at path, and nothing else. It looks
// whether there is a directory for the file, before anything else is begun.
func claim(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		if _, err = os.Stat(filepath.Dir(path)); err == nil {
			return nil
		}
	}
	if err != nil {
		return &cli.Error{Code: cli.ExitUsage, Message: fmt.Sprintf("cannot use %s as the file of --env-file: %v", path, err)}
	}
	head := make([]byte, len(ready))
	_, err = io.ReadFull(f, head)
	_ = f.Close() // only read
	if err != nil || string(head) != ready {
		return &cli.Error{Code: cli.ExitUsage, Message: fmt.Sprintf("%s exists, and is not what an earlier \"cordon simulate\" left behind", path), Hint: "choose another --env-file, and append it to yours when it is there"}
	}
	return os.Remove(path)
}
