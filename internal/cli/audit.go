package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/mde"
)

// AuditCmd is "cordon audit".
type AuditCmd struct {
	common
	Since string   `placeholder:"TIME" help:"Only what happened since this time, for example 2026-01-24T22:17:02Z, or so long ago, for example 24h."`
	Kind  []string `placeholder:"KIND" sep:"," help:"Only entries of this kind, for example trust. May be repeated."`
	Top   int      `default:"50" placeholder:"N" help:"No more than this many; 0 for all."`
}

// Help is shown below the one-line help.
func (AuditCmd) Help() string {
	return `It needs the permission AuditLog.Read.All. An actor is the client id of an application, a name of another issuer's, or the id of a machine. What belongs to a machine action is not here: "cordon actions verify" checks it and shows it.

The kinds:

    ` + strings.Join(logKinds(), "\n    ")
}

func logKinds() []string {
	var words []string
	for _, k := range cordon.LogKinds() {
		words = append(words, string(k))
	}
	return words
}

// Run reads the log.
func (c *AuditCmd) Run(ctx context.Context, env *Env) error {
	since, err := sinceTime(c.Since, env.now())
	if err != nil {
		return err
	}
	if c.Top < 0 {
		return usage("give a number such as 10, or 0 for all", "--top is negative")
	}
	o := mde.AuditOptions{Since: since, Top: c.Top}
	for _, k := range c.Kind {
		if !slices.Contains(logKinds(), k) {
			return usage("the kinds are "+strings.Join(logKinds(), ", "), "there is no kind %s", k)
		}
		o.Kinds = append(o.Kinds, cordon.AuditKind(k))
	}
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	entries, err := collect(client.AuditLog(ctx, o))
	if err != nil {
		return err
	}
	return printList(env, c.JSON, entries, "there are no such entries", []string{"AT", "KIND", "ACTOR", "MACHINE", "DETAIL"}, func(e mde.LogEntry) []string {
		return []string{clock(e.At), string(e.Kind), e.Actor, or(&e.Machine, "-"), e.Detail}
	})
}

// sinceTime reads a time, or how long ago it was; empty is the beginning.
func sinceTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return at, usage("for example 2026-01-24T22:17:02Z, or 24h", "--since %s is neither a time nor a time span", s)
	}
	return at, nil
}
