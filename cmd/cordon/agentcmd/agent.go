// Package agentcmd wires the agent: it reads the flags of the verbs below "agent",
// makes the parts, and hands them to each other.
package agentcmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agent"
	"github.com/cordon-project/cordon/internal/cli"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/enforce/bpflsm"
	"github.com/cordon-project/cordon/internal/enforce/fanotify"
	"github.com/cordon-project/cordon/internal/facts"
	"github.com/cordon-project/cordon/internal/notice"
	"github.com/cordon-project/cordon/internal/protect"
	"github.com/cordon-project/cordon/internal/supervised"
	"github.com/cordon-project/cordon/internal/telemetry"
	"github.com/cordon-project/cordon/internal/trust"
	"github.com/cordon-project/cordon/internal/trust/archive"
	"github.com/cordon-project/cordon/internal/trust/survival"
)

// Cmd is "cordon agent", to be embedded in the grammar of the command.
type Cmd struct {
	Run          agentRun          `cmd:"" default:"withargs" help:"Run the agent (the default)."`
	Preview      agentPreview      `cmd:"" help:"Show what runs on this machine, or ran in mode audit, and would be refused under a restriction."`
	Status       agentStatus       `cmd:"" help:"Show how things stand on this machine."`
	Apply        agentApply        `cmd:"" help:"Hand the agent a signed order or release that was carried here, or type the code of a release."`
	Admit        agentAdmit        `cmd:"" help:"Before packages are installed on a restricted machine: let run what they bring, if their archives are signed."`
	CheckRemoval agentCheckRemoval `cmd:"" help:"Fail with the reason if this machine is restricted, so that its agent must not be removed."`
	Guardian     agentGuardian     `cmd:"" hidden:"" help:"Watch over an agent; started by it."`
	Notifier     agentNotifier     `cmd:"" hidden:"" help:"Tell people at the machine; started by an agent."`
	Messenger    agentMessenger    `cmd:"" hidden:"" help:"Tell one of them; started by a notifier."`
}

// Help leads to the flags, which belong to run.
func (Cmd) Help() string {
	return `"cordon agent" alone is "cordon agent run", whose --help has the flags.`
}

type agentGuardian struct{}

// Run watches over the agent that started it.
func (agentGuardian) Run() error { return enforce.GuardianMain() }

// agentDir is the flag that says which agent.
type agentDir struct {
	DataDir string `type:"path" default:"/var/lib/cordon-agent" placeholder:"DIR" help:"The agent's data directory (default ${default})."`
}

type agentRun struct {
	agentDir
	Server          string        `required:"" env:"CORDON_SERVER" placeholder:"URL" help:"The server, https://host[:port]."`
	CAFile          string        `name:"ca-file" env:"CORDON_CA_FILE" type:"path" placeholder:"FILE" help:"Trust this CA for the server (PEM). Without it, the system's."`
	EnrollmentToken string        `env:"CORDON_ENROLLMENT_TOKEN" placeholder:"TOKEN" help:"Enrol this machine with this token; needed at the first start only."`
	Enforcer        string        `enum:"auto,bpf,fanotify,none" default:"auto" help:"How to enforce: ${enum} (default ${default})."`
	AnonymousCode   anonymousCode `default:"allow" placeholder:"RULE" help:"With BPF LSM, while restricted: executable memory without a file, as JIT compilers make it: allow, deny, or deny:CLASS,… for programs that are trusted because of a package (dpkg, rpm), a rule of this machine (rule) or the server's policy (policy) (default ${default})."`
	Interpreters    string        `enum:"open,trusted-scripts" default:"trusted-scripts" help:"With BPF LSM, while restricted: whether interpreters (python, perl, shells …) run any program text, or only what is trusted: ${enum} (default ${default})."`
	Scope           string        `default:"host" placeholder:"SCOPE" help:"Where to enforce: host, or mount:/path for one mount of the agent's mount namespace (default ${default})."`
	Audit           bool          `help:"While the machine is not restricted, count what a restriction would refuse (mode audit), for cordon machines preview."`
	Notices         string        `enum:"on,off" default:"on" env:"CORDON_NOTICES" help:"Tell people who are logged in that the machine is restricted, or no longer, and which programs are refused: ${enum} (default ${default})."`
	NoticeContact   string        `env:"CORDON_NOTICE_CONTACT" placeholder:"TEXT" help:"Whom these texts name to ask."`
	Rules           string        `type:"path" default:"/etc/cordon/trust.rules" placeholder:"FILE" help:"The administrator's rules of what is trusted (default ${default})."`
}

// Run runs the agent until the context ends.
func (c agentRun) Run(ctx context.Context, env *cli.Env) (err error) {
	scope, err := enforce.ParseScope(c.Scope)
	if err != nil {
		return &cli.Error{Code: cli.ExitUsage, Message: err.Error(), Hint: "for example --scope mount:/srv"}
	}
	if n := utf8.RuneCountInString(c.NoticeContact); n > notice.MaxContact {
		return &cli.Error{Code: cli.ExitUsage, Message: fmt.Sprintf("--notice-contact has %d characters, at most %d are shown", n, notice.MaxContact)}
	}
	// Whatever the agent makes is root's alone, from the first moment.
	syscall.Umask(0o077)
	log := env.Log()
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	boot, err := facts.BootClock()
	if err != nil {
		return err
	}
	// The data directory is locked before anything else is done with it.
	cfg := agent.Config{
		Server: c.Server, CAFile: c.CAFile, EnrollToken: c.EnrollmentToken, DataDir: c.DataDir,
		Facts: facts.New(env.Version).Read, Log: log, Now: time.Now, Boot: boot,
	}
	var p *protect.Protection // before anybody asks
	var texts *learner
	cfg.Admit = func(ctx context.Context, paths []string) error {
		if len(paths) == 0 { // a package manager is about to use what it has unpacked
			texts.unpacked(ctx)
			return nil
		}
		return p.Admit(ctx, paths)
	}
	var notices *notice.Notices
	cfg.Changed = func(restricted bool) { notices.Changed(restricted) }
	a, err := agent.Open(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()

	admittedFile := filepath.Join(c.DataDir, "admitted")
	admitted := archive.OpenLedger("/", admittedFile, func(d cordon.Digest) bool {
		set := p.Set()
		return set != nil && set.Contains(d)
	}, log)
	builder := &trust.Builder{
		RulesFile: c.Rules, CacheFile: filepath.Join(c.DataDir, "trust.cache"), Self: []string{exe}, Log: log,
		Gate: admitted.Gate, GateFile: admittedFile, Signs: admitted.Signs,
		ProgramText: true, // to be asked; see below
		Running:     func() []cordon.Digest { return replaced(initDescriptors) },
	}
	restricted, err := restriction(c.DataDir)
	if err != nil {
		return err
	}
	began := begunWith(builder)
	if restricted != nil && scope.Mount == "" && began != "" && began != c.Interpreters {
		log.Warn("the policy for interpreters stays what it is until this machine is released and the agent is started again", "policy", began, "asked", c.Interpreters)
		c.Interpreters = began
	}
	c.AnonymousCode = c.AnonymousCode.keep(filepath.Join(c.DataDir, "anonymous-code"), restricted != nil, log)
	notices = c.notices(exe, log)
	defer func() { err = errors.Join(err, notices.Close()) }()
	enforcer, guardian, err := c.enforcer(scope, exe, notices, env)
	if err != nil {
		return err
	}
	tester, err := c.tester(scope, guardian)
	if err != nil {
		return errors.Join(err, enforcer.Close())
	}
	builder.ProgramText = enforcer.Describe().Interpreters == cordon.TrustedScripts
	if builder.ProgramText && began == string(cordon.OpenInterpreters) {
		// Not restricted, or it would stay open: an order that comes before the first
		// build must not begin with a set that has no program text.
		if err := os.Remove(builder.CacheFile); err != nil {
			return errors.Join(fmt.Errorf("forget a trust set without program text: %w", err), enforcer.Close())
		}
	}
	ledger := telemetry.Open(telemetry.Config{
		File: filepath.Join(c.DataDir, "findings.json"), Owner: builder.Owner, Now: time.Now, Log: log,
		Totals: func() map[cordon.FindingKind]uint64 {
			n := tester.Without(enforcer.Stats())
			return map[cordon.FindingKind]uint64{cordon.Blocked: n.Refused, cordon.Audited: n.WouldRefuse}
		},
	})
	a.Tell(ledger.Findings)
	texts = newLearner(enforcer, builder, log)
	p, err = c.protection(boot().Boot, scope, exe, enforcer, tester, builder, texts, admitted, ledger, notices, env)
	if err != nil {
		return errors.Join(err, enforcer.Close())
	}
	a.Use(p)
	previews := c.previews(scope, enforcer, builder, ledger, p)
	if guardian != nil {
		a.Show(previews.show)
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var work sync.WaitGroup
	ended := make(chan error, 4)
	run := func(f func() error) {
		work.Go(func() {
			if err := f(); err != nil {
				ended <- err
			}
			cancel() // none of them ends before the agent does
		})
	}
	run(func() error { return p.Run(ctx) })
	run(func() error { return a.ServeLocal(ctx) })
	work.Go(func() { ledger.Run(ctx) })
	if guardian != nil {
		work.Go(func() { previews.keep(ctx, log) })
	}
	run(func() error {
		a.KeepRestored(ctx, work.Go)
		supervised.Ready(log)
		return a.Run(ctx)
	})
	work.Go(func() {
		if err := supervised.KeepAlive(ctx, func() { a.Status() }); err != nil {
			log.Warn("the service manager's watchdog cannot be answered", "err", err)
		}
	})
	if guardian != nil {
		go func() { // ends with the guardian, which ends last
			if err := enforce.Watch(guardian, enforcer.Beat); ctx.Err() == nil {
				ended <- fmt.Errorf("the agent ends because its guardian did, without which it must not enforce: %w", err)
				cancel()
			}
		}()
	}
	work.Wait()
	select {
	case err = <-ended:
	default:
	}
	err = errors.Join(err, enforcer.Close())
	p.Rest(ctx)
	err = errors.Join(err, ledger.Flush())
	if guardian != nil {
		err = errors.Join(err, guardian.Close())
	}
	return err
}

// begunWith returns the policy for interpreters for which the last trust set was
// built, "" if there is none. A restriction keeps it: what packages had brought
// before is trusted as far as it was then, so there is no program text to
// be had any more; and who may start the agent with other flags is not who may
// loosen a restriction.
func begunWith(b *trust.Builder) string {
	switch {
	case b.Last() == nil:
		return ""
	case len(b.Texts()) == 0:
		return string(cordon.OpenInterpreters)
	}
	return string(cordon.TrustedScripts)
}

// enforcer opens what --enforcer asks for. The guardian is nil if nothing can
// be enforced.
func (c agentRun) enforcer(scope enforce.Scope, exe string, n *notice.Notices, env *cli.Env) (enforce.Enforcer, *enforce.Guardian, error) {
	left, err := bpflsm.LeftInForce(bpflsm.Pins)
	if err == nil && left {
		err = c.takesOver(scope)
	}
	if err != nil {
		return nil, nil, err
	}
	if c.Enforcer == "none" {
		return enforce.None{Scope: scope, Reason: "this agent runs with --enforcer none"}, nil, nil
	}
	guardian, err := enforce.StartGuardian(exe, "agent", enforce.GuardianArg)
	if err != nil {
		return nil, nil, err
	}
	log := env.Log()
	if scope.Mount == "" {
		if err := guardian.Leave(); err != nil {
			log.Warn("who freezes the agent freezes its guardian too", "err", err)
		}
	}
	var why []string // nothing better
	for _, try := range []struct {
		name, title string
		open        func() (enforce.Enforcer, enforce.Finding)
	}{
		{"bpf", "BPF LSM", func() (enforce.Enforcer, enforce.Finding) { return c.openBPF(scope, guardian, n, log) }},
		{"fanotify", "fanotify", func() (enforce.Enforcer, enforce.Finding) { return c.openFanotify(scope, guardian, log) }},
	} {
		if c.Enforcer != "auto" && c.Enforcer != try.name {
			continue
		}
		e, found := try.open()
		log.Info(try.title+" probed", "answer", found.Answer, "reason", found.Reason)
		if e == nil {
			reason := found.Reason
			if !strings.HasPrefix(reason, try.title) {
				reason = try.title + " is not used: " + reason
			}
			why = append(why, reason)
			if left {
				break // what else there is could not lift it
			}
			continue
		}
		if len(why) > 0 {
			e = enforce.Noted{Enforcer: e, Note: strings.Join(why, ". ") + "."}
		}
		return e, guardian, nil
	}
	reason := strings.Join(why, ". ")
	if left {
		err := &cli.Error{Code: cli.ExitUnavailable, Message: "this machine is restricted by BPF LSM, and stays so, but this agent cannot take that over. " + reason, Hint: "a restart of the machine lifts what the kernel has; its agent then restricts it again"}
		return nil, nil, errors.Join(err, guardian.Close())
	}
	if err := guardian.Close(); c.Enforcer != "auto" || err != nil {
		return nil, nil, errors.Join(&cli.Error{Code: cli.ExitUnavailable, Message: reason, Hint: "--enforcer none runs the agent without enforcement; every restriction then ends Failed"}, err)
	}
	return enforce.None{Scope: scope, Reason: reason}, nil, nil
}

// takesOver is nil if this agent may lift what an earlier one's BPF programs
// restrict: whatever else it did about orders, the machine would stay restricted
// and the server would hear that it is not.
func (c agentRun) takesOver(scope enforce.Scope) error {
	if scope.Mount == "" && (c.Enforcer == "auto" || c.Enforcer == "bpf") {
		return nil
	}
	return &cli.Error{
		Code:    cli.ExitUnavailable,
		Message: fmt.Sprintf("this machine is restricted by BPF LSM, which an agent with --enforcer %s and --scope %s cannot lift", c.Enforcer, scope),
		Hint:    "start the agent with --enforcer auto or bpf and --scope host, and unrestrict the machine before you change them",
	}
}

// openBPF returns no enforcer unless it was seen to work.
func (c agentRun) openBPF(scope enforce.Scope, g *enforce.Guardian, n *notice.Notices, log *slog.Logger) (enforce.Enforcer, enforce.Finding) {
	cfg := bpflsm.Config{Scope: scope, Log: log, DenyAnonymous: c.AnonymousCode.all, DenyAnonymousOf: c.AnonymousCode.classes, TrustedScripts: c.Interpreters == string(cordon.TrustedScripts)}
	if scope.Mount == "" {
		cfg.Pins, cfg.Home, cfg.Kin = bpflsm.Pins, c.DataDir, []int{g.PID()}
		if n != nil { // what it starts is guarded too, and it has to be able to end that
			cfg.Kin = append(cfg.Kin, n.PID())
		}
	}
	e, err := bpflsm.Open(cfg)
	if err != nil {
		return nil, enforce.Finding{Answer: cordon.No, Reason: err.Error()}
	}
	found := e.Prove(g)
	if found.Answer != cordon.Yes {
		if err := e.Close(); err != nil {
			log.Error("BPF LSM not closed", "err", err)
		}
		return nil, found
	}
	return e, found
}

// openFanotify returns no enforcer if it is known not to work.
func (c agentRun) openFanotify(scope enforce.Scope, g *enforce.Guardian, log *slog.Logger) (enforce.Enforcer, enforce.Finding) {
	if err := g.Alive(); err != nil { // from here on programs may wait for this process
		return nil, enforce.Finding{Answer: cordon.Unknown, Reason: err.Error()}
	}
	found := fanotify.Probe(g, c.DataDir)
	if found.Answer == cordon.No {
		return nil, found
	}
	e, err := fanotify.Open(scope, log)
	if err != nil {
		return nil, enforce.Finding{Answer: cordon.No, Reason: err.Error()}
	}
	return e, found
}

// tester returns what proves a restriction of the scope. Where nothing can be
// enforced there need be no canary, which not every processor has.
func (c agentRun) tester(scope enforce.Scope, g *enforce.Guardian) (*enforce.Tester, error) {
	if g == nil {
		return &enforce.Tester{}, nil
	}
	canary, err := enforce.NewCanary()
	t := &enforce.Tester{Guardian: g, Dir: c.DataDir, Trusted: canary}
	if scope.Mount != "" {
		t.Dir = scope.Mount
	}
	return t, err
}

func (c agentRun) protection(bootID string, scope enforce.Scope, exe string, e enforce.Enforcer, tester *enforce.Tester, builder *trust.Builder, texts *learner, admitted *archive.Ledger, ledger *telemetry.Ledger, n *notice.Notices, env *cli.Env) (*protect.Protection, error) {
	log := env.Log()
	cfg := protect.Config{Enforcer: e, BootID: bootID, Log: log}
	if tester.Guardian == nil {
		cfg.Last = func() *cordon.TrustSet { return nil }
		cfg.Follow = func(ctx context.Context, _ func(*cordon.TrustSet, error)) error { <-ctx.Done(); return nil }
		return protect.New(cfg), nil
	}
	if c.Audit {
		cfg.Idle = cordon.ModeAudit
	}
	cfg.Seen = func(r enforce.Refusal) bool {
		texts.refused(r)
		if tester.Own(r) {
			return false
		}
		if r.Mode == cordon.ModeEnforce {
			n.Refused(r.Path)
		}
		return ledger.Note(seen(r))
	}
	cfg.Refused = func() uint64 { return tester.Without(e.Stats()).Refused }
	cfg.Admission = admitted
	cfg.Test, cfg.Own = tester.Test, []cordon.TrustEntry{tester.Trusted.Entry()}
	cfg.Last = func() *cordon.TrustSet {
		defer builder.Hurry()()
		texts.learn(context.Background()) // first, so that interpreters know all files when the set counts
		return builder.Last()
	}
	cfg.Hurry = builder.Hurry
	withRunning := keepRunning()
	cfg.Follow = func(ctx context.Context, each func(*cordon.TrustSet, error)) error {
		return builder.Follow(ctx, func(set *cordon.TrustSet, sum trust.Summary, err error) {
			log.InfoContext(ctx, "trust set built", "summary", sum)
			for _, w := range sum.Withheld.First {
				log.WarnContext(ctx, "program not trusted: what names it came while this machine was restricted, and was not admitted", "program", w.Name, "by", w.Why)
			}
			if err == nil {
				texts.learn(ctx)
				set = withRunning(set)
			}
			each(set, err)
		})
	}
	cfg.Missing = func(ctx context.Context, set *cordon.TrustSet) ([]string, error) {
		missing, err := survival.Check(ctx, "/", set, survival.Options{Agent: []string{exe}})
		var inScope []string
		for _, m := range missing {
			if within(m.Path, scope.Mount) {
				inScope = append(inScope, m.String())
			}
		}
		return inScope, err
	}
	return protect.New(cfg), nil
}

// seen is how a refusal is counted.
func seen(r enforce.Refusal) telemetry.Seen {
	s := telemetry.Seen{Kind: cordon.Blocked, Path: r.Path, Digest: r.Digest, Reason: r.Reason, Count: r.Count}
	if r.Mode == cordon.ModeAudit {
		s.Kind = cordon.Audited
	}
	return s
}

// within reports whether a restriction of the scope concerns the file at path.
func within(path, mount string) bool {
	return mount == "" || mount == "/" || strings.HasPrefix(path, mount+"/")
}
