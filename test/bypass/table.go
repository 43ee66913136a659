package main

import (
	"fmt"
	"io"
	"strings"
)

// Table is what came of all cases in all columns.
type Table struct {
	Columns []Column
	cells   map[string]map[Column]Result // by case, with enforcement; what is missing without is here, too
	control map[string]map[Column]Result
}

func newTable(columns []Column) *Table {
	return &Table{columns, map[string]map[Column]Result{}, map[string]map[Column]Result{}}
}

func (t *Table) add(col Column, r Result) {
	to := t.cells
	if !r.Enforced {
		to = t.control
	}
	if to[r.Case] == nil {
		to[r.Case] = map[Column]Result{}
	}
	to[r.Case][col] = r
}

// cell is what the table says; a control that failed or is missing counts for all.
func (t *Table) cell(c Case, col Column) Result {
	if r, ok := t.cells[c.String()][col]; ok {
		return r
	}
	if r, ok := t.control[c.String()][col]; ok && (r.State == Absent || r.State == Broken) {
		return r
	}
	return Result{Case: c.String(), State: Broken, Why: "it was not tried"}
}

// without is what the first column says: how the cases end without enforcement.
func (t *Table) without(c Case) string {
	state := Absent
	for _, col := range t.Columns {
		switch s := t.control[c.String()][col].State; s {
		case Broken:
			return s
		case Runs:
			state = s
		}
	}
	return state
}

// print writes the table in Markdown, and below it what is not plain.
func (t *Table) print(w io.Writer) error {
	var b, notes strings.Builder
	b.WriteString("| case | no enforcement |")
	for _, col := range t.Columns {
		b.WriteString(" " + col.String() + " |")
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(t.Columns)) + "\n")
	for _, c := range cases {
		fmt.Fprintf(&b, "| %s | %s |", c, t.without(c))
		for _, col := range t.Columns {
			r := t.cell(c, col)
			b.WriteString(" " + r.State + " |")
			if r.State == Absent || r.State == Broken || r.State == Blocked || r.State == Hangs {
				fmt.Fprintf(&notes, "- %s, %s: %s: %s\n", c, col, r.State, r.Why)
			}
		}
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, b.String()+"\n"+notes.String())
	return err
}

// problems are what must not be: our own cells that are neither as they should be
// nor listed as open, and cases that prove nothing.
func (t *Table) problems(limits []Limit) []string {
	var all []string
	for _, c := range cases {
		for _, col := range t.Columns {
			r := t.cell(c, col)
			listed := lists(limits, c, col.Mechanism)
			ours := col.Mechanism != fapolicyd
			switch {
			case r.State == Broken && ours, r.State == Blocked && ours, (r.State == Open || r.State == Hangs) && ours && !listed:
				all = append(all, fmt.Sprintf("%s, %s: %s %s", c, col, r.State, r.Why))
			case r.State == Refused && listed && !c.Race:
				all = append(all, fmt.Sprintf("%s, %s: it is refused, and docs/limits.md says that it is open", c, col))
			}
		}
	}
	return all
}

// Limit is a line of docs/limits.md: a case that is open for some mechanisms, or mitigated.
type Limit struct {
	Case, State, Reason string
	Mechanisms          []string
}

func lists(limits []Limit, c Case, mechanism string) bool {
	for _, l := range limits {
		for _, m := range l.Mechanisms {
			if l.Case == c.String() && m == mechanism && l.State == "open" {
				return true
			}
		}
	}
	return false
}

// limitsHeading is above the part of docs/limits.md that the suite is compared with.
const limitsHeading = "## What still runs"

// parseLimits reads the table below limitsHeading: | case | mechanisms | state | reason |.
func parseLimits(page string) ([]Limit, error) {
	_, part, ok := strings.Cut(page, "\n"+limitsHeading+"\n")
	if !ok {
		return nil, fmt.Errorf("the page has no part %q", limitsHeading)
	}
	part, _, _ = strings.Cut(part, "\n## ")
	var all []Limit
	for line := range strings.Lines(part) {
		f := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(f) < 2 || f[0] == " case " || strings.HasPrefix(f[0], "---") {
			continue
		}
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		if len(f) != 4 {
			return nil, fmt.Errorf("not a line of four cells: %s", line)
		}
		all = append(all, Limit{Case: f[0], Mechanisms: strings.Split(f[1], ", "), State: f[2], Reason: f[3]})
	}
	return all, nil
}
