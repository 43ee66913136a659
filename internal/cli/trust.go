package cli

import (
	"context"
	"strings"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/mde"
)

// TrustCmd groups the verbs about what is trusted by SHA-256.
type TrustCmd struct {
	Add    TrustAddCmd    `cmd:"" help:"Let a file run on restricted machines, by its SHA-256."`
	List   TrustListCmd   `cmd:"" help:"List what is trusted by SHA-256."`
	Remove TrustRemoveCmd `cmd:"" help:"Take back the trust in a file."`
}

// trusted names a rule.
type trusted struct {
	common
	SHA256  string `arg:"" name:"sha256" help:"The SHA-256 of the file, 64 hex digits, as sha256sum and cordon machines blocked show it."`
	Machine string `placeholder:"MACHINE" xor:"scope" required:"" help:"For this machine: its id, device id or DNS name."`
	Group   string `placeholder:"GROUP" xor:"scope" required:"" help:"For the machines of this device group, as long as they are in it."`
	All     bool   `xor:"scope" required:"" help:"For all machines."`
}

func (t *trusted) run(ctx context.Context, env *Env, comment string, remove bool, done, nothing string) error {
	digest, ok := cordon.ParseDigest(t.SHA256)
	if !ok {
		return usage("sha256sum FILE shows it", "%q is not 64 hex digits", t.SHA256)
	}
	client, err := t.connect(env)
	if err != nil {
		return err
	}
	rule := mde.TrustRule{SHA256: digest.String(), Machine: t.Machine, Group: t.Group, Comment: comment}
	if t.All {
		rule.Scope = string(cordon.TrustAll)
	}
	changed, err := client.Trust(ctx, rule, remove)
	if err != nil {
		return withHint(ctx, err, ExitNotFound, groupHint)
	}
	if t.JSON {
		return env.PrintJSON(map[string]bool{"changed": changed})
	}
	if !changed {
		done = nothing
	}
	env.note("%s", done)
	return nil
}

// TrustAddCmd is "cordon trust add".
type TrustAddCmd struct {
	trusted
	Comment string `required:"" placeholder:"TEXT" help:"Why; it is kept with the rule and in the audit log."`
}

// Run makes the rule.
func (c *TrustAddCmd) Run(ctx context.Context, env *Env) error {
	if strings.TrimSpace(c.Comment) == "" {
		return usage("say why, for those who read the list later", "--comment is empty")
	}
	return c.run(ctx, env, c.Comment, false, "trusted; machines that are connected learn it at once", "it was trusted there already; nothing has changed")
}

// TrustRemoveCmd is "cordon trust remove".
type TrustRemoveCmd struct {
	trusted
	Comment string `placeholder:"TEXT" help:"Why; it is kept in the audit log."`
}

// Run takes the rule back.
func (c *TrustRemoveCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, c.Comment, true, "not trusted by this rule any more; machines that are connected learn it at once", "there was no such rule; nothing has changed")
}

// TrustListCmd is "cordon trust list".
type TrustListCmd struct{ common }

// Run lists the rules.
func (c *TrustListCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	rules, err := client.TrustRules(ctx)
	if err != nil {
		return err
	}
	return printList(env, c.JSON, rules, "nothing is trusted by SHA-256", []string{"SHA256", "FOR", "SINCE", "COMMENT"}, func(r mde.TrustRule) []string {
		whom := r.Scope
		if r.Group != "" {
			whom = "group " + r.Group
		}
		return []string{r.SHA256, whom, clock(r.At), shorten(r.Comment)}
	})
}
