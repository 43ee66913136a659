package agentcmd

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/cli"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/local"
	"github.com/cordon-project/cordon/internal/preview"
	"github.com/cordon-project/cordon/internal/protect"
	"github.com/cordon-project/cordon/internal/telemetry"
	"github.com/cordon-project/cordon/internal/trust"
)

// previews finds out what a restriction of this machine would hit.
type previews struct {
	scanner *preview.Scanner
	ledger  *telemetry.Ledger
	set     func() *cordon.TrustSet
}

func (c agentRun) previews(scope enforce.Scope, e enforce.Enforcer, b *trust.Builder, l *telemetry.Ledger, p *protect.Protection) *previews {
	return &previews{
		scanner: &preview.Scanner{Proc: "/proc", Mapped: e.Describe().Mappings, Within: func(path string) bool { return within(path, scope.Mount) }, Owner: b.Owner},
		ledger:  l, set: p.Set,
	}
}

// show looks now.
func (p *previews) show(ctx context.Context) (cordon.Preview, error) {
	set := p.set()
	if set == nil {
		return cordon.Preview{}, errors.New("the trust set is not built yet: try again in a minute")
	}
	files, total, err := p.scanner.Scan(ctx, set)
	if err != nil {
		return cordon.Preview{}, err
	}
	p.ledger.Replace(cordon.Running, files, total)
	now := time.Now().UTC()
	shown := cordon.Preview{Running: cordon.Findings{Kind: cordon.Running, Since: now, At: now, Total: total, Files: files}}
	for _, s := range p.ledger.Findings() {
		if s.Kind == cordon.Audited {
			shown.Audited = s
		}
	}
	return shown, nil
}

const (
	previewEvery = 10 * time.Minute
	previewFirst = 5 * time.Second // until the first trust set is there
)

// keep looks now and then, for the server's view, until ctx ends.
func (p *previews) keep(ctx context.Context, log *slog.Logger) {
	wait := previewFirst
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if p.set() == nil {
			continue
		}
		wait = previewEvery
		if _, err := p.show(ctx); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "what runs could not be looked at", "err", err)
		}
	}
}

type agentPreview struct{ question }

// Run shows what a restriction would refuse.
func (c agentPreview) Run(ctx context.Context, env *cli.Env) error {
	p, err := local.Dial(c.DataDir).Preview(ctx)
	if err != nil {
		return noAgent(err)
	}
	if p.Error != "" {
		return &cli.Error{Code: cli.ExitUnavailable, Message: p.Error}
	}
	if c.JSON {
		return env.PrintJSON(p.Preview)
	}
	return env.PrintPreview(p.Preview)
}
