package agentcmd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/cordon-project/cordon/internal/durable"
)

// anonymousCode is who may not make executable memory without a file.
type anonymousCode struct {
	all     bool
	classes []string // the first words of origins, see [cordon.TrustEntry]
}

// UnmarshalText reads allow, deny, or deny:CLASS,….
func (a *anonymousCode) UnmarshalText(text []byte) error {
	*a = anonymousCode{}
	how, of, some := strings.Cut(string(text), ":")
	switch {
	case how == "allow" && !some:
		return nil
	case how == "deny" && !some:
		a.all = true
		return nil
	case how != "deny":
		return fmt.Errorf("%q is neither allow, deny nor deny:CLASS,…", text)
	}
	for class := range strings.SplitSeq(of, ",") {
		if !slices.Contains([]string{"dpkg", "rpm", "rule", "policy"}, class) {
			return fmt.Errorf("%q is no class of trust: there are dpkg, rpm, rule and policy", class)
		}
		a.classes = append(a.classes, class)
	}
	return nil
}

// text is what UnmarshalText reads.
func (a anonymousCode) text() []byte {
	switch {
	case a.all:
		return []byte("deny")
	case len(a.classes) > 0:
		return []byte("deny:" + strings.Join(a.classes, ","))
	}
	return []byte("allow")
}

// keep returns what the agent that began a restriction was started with, as long as
// that lasts: who may start one with other flags is not who may loosen it. On a
// machine that is not restricted it writes into file what is to be kept.
func (a anonymousCode) keep(file string, restricted bool, log *slog.Logger) anonymousCode {
	asked := a.text()
	if !restricted {
		if err := durable.Replace(file, asked, 0o600); err != nil {
			log.Warn("a restart of the agent can change --anonymous-code, also while restricted", "err", err)
		}
		return a
	}
	kept, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return a // the agent that began it kept nothing
	}
	var was anonymousCode
	if err := errors.Join(err, was.UnmarshalText(kept)); err != nil {
		log.Error("--anonymous-code is what this agent was asked, not what the restriction began with", "err", err)
		return a
	}
	if !bytes.Equal(kept, asked) {
		log.Warn("--anonymous-code stays what it is until this machine is released and the agent is started again", "is", string(kept), "asked", string(asked))
	}
	return was
}
