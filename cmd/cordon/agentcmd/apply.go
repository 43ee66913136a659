package agentcmd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/cli"
	"github.com/cordon-project/cordon/internal/local"
	"github.com/cordon-project/cordon/internal/seal"
)

type agentApply struct {
	question
	Code bool   `help:"Type the code of a release, line by line."`
	File string `arg:"" optional:"" help:"The signed order, as \"cordon actions order\" saves it, or the release, as \"cordon break-glass\" does; - for standard input."`
}

// Run hands what was carried here to the agent.
func (c agentApply) Run(ctx context.Context, env *cli.Env) error {
	const hint = "give the file, - for standard input, or --code"
	if c.Code == (c.File != "") {
		return &cli.Error{Code: cli.ExitUsage, Message: "one of FILE and --code is needed", Hint: hint}
	}
	var carried io.Reader = os.Stdin
	switch {
	case c.Code:
		code, err := readCode(os.Stdin, env, term.IsTerminal(int(os.Stdin.Fd())))
		if err != nil {
			return err
		}
		carried = strings.NewReader(code)
	case c.File != "-":
		f, err := os.Open(c.File)
		if err != nil {
			return &cli.Error{Code: cli.ExitUsage, Message: "the order cannot be read: " + err.Error()}
		}
		defer func() { _ = f.Close() }() // only read
		carried = f
	}
	r, err := local.Dial(c.DataDir).Apply(ctx, carried)
	if err != nil {
		return noAgent(err)
	}
	if c.JSON {
		if err := env.PrintJSON(r); err != nil {
			return err
		}
	} else if r.State == cordon.ReportSucceeded {
		if _, err := fmt.Fprintln(env.Stdout, r.State); err != nil {
			return err
		}
	}
	if r.State != cordon.ReportSucceeded {
		return &cli.Error{Code: cli.ExitActionFailed, Message: fmt.Sprintf("it ended %s: %s", r.State, r.Error)}
	}
	return nil
}

// readCode reads the lines of a code. A person at a terminal is told at once
// which line is wrong, and types it again.
func readCode(in io.Reader, env *cli.Env, person bool) (string, error) {
	lines := bufio.NewScanner(in)
	var code strings.Builder
	for i := 0; i < seal.CodeLines; {
		if person {
			_, _ = fmt.Fprintf(env.Stderr, "line %d of %d: ", i+1, seal.CodeLines) // a prompt that nobody sees is none
		}
		if !lines.Scan() {
			return "", &cli.Error{Code: cli.ExitUsage, Message: fmt.Sprintf("the code ends after line %d of %d", i, seal.CodeLines)}
		}
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		if err := seal.CheckCodeLine(i, line); err != nil {
			if !person {
				return "", &cli.Error{Code: cli.ExitUsage, Message: err.Error()}
			}
			_, _ = fmt.Fprintln(env.Stderr, err) // as above
			continue
		}
		code.WriteString(line + "\n")
		i++
	}
	return code.String(), nil
}
