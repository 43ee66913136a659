// Command bypass tries to run code that is not trusted by every technique that
// it knows, in virtual machines, and prints what came of each: without
// enforcement, under each of Cordon's enforcers, and under fapolicyd.
//
//	go run ./test/bypass [--column "bpf 6.12"]... [CASE]...
//
// A case is data (see [Case]): an attempt with an oracle. Each is tried without
// enforcement first, where it must succeed: one that does not proves nothing and is
// reported as broken. The command fails if something runs that docs/limits.md
// does not list with its reason.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// cases are all techniques.
var cases = slices.Concat(fileCases, interpreterCases, memoryCases, kernelCases, agentCases)

func init() {
	slices.SortStableFunc(cases, func(a, b Case) int { return strings.Compare(a.ID, b.ID) })
}

func main() {
	if code, done := role(); done {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := full(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bypass:", err)
		os.Exit(1)
	}
}

func full(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bypass", flag.ContinueOnError)
	var cols []Column
	flags.Func("column", "try only this `COLUMN`, as \"bpf 6.12\"; may be repeated", func(s string) error {
		for _, c := range columns {
			if c.String() == s {
				cols = append(cols, c)
				return nil
			}
		}
		return fmt.Errorf("the columns are %v", columns)
	})
	page := flags.String("limits", "docs/limits.md", "the `FILE` that lists what is open")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if len(cols) == 0 {
		cols = columns
	}
	text, err := os.ReadFile(*page)
	if err != nil {
		return err
	}
	limits, err := parseLimits(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", *page, err)
	}
	names := flags.Args()
	cases = slices.DeleteFunc(cases, func(c Case) bool { return len(names) > 0 && !matches(c, names) })
	t := newTable(cols)
	for _, col := range cols {
		fmt.Fprintln(os.Stderr, "bypass:", col)
		if err := try(ctx, col, names, func(r Result) {
			t.add(col, r)
			fmt.Fprintf(os.Stderr, "%s: %s, enforced %v: %s %s\n", col, r.Case, r.Enforced, r.State, r.Why)
		}); err != nil {
			return fmt.Errorf("%s: %w", col, err)
		}
	}
	if err := t.print(os.Stdout); err != nil {
		return err
	}
	var failed []error
	for _, p := range t.problems(limits) {
		failed = append(failed, errors.New(p))
	}
	return errors.Join(failed...)
}
