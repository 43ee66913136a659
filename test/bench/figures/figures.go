// Package figures is what the benches have in common: samples with their
// quantiles, a report of figures beside what they should be, and what the kernel says.
package figures

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Sample is a number of measurements of the same thing.
type Sample []float64

// At returns the value below which a share q of the sample lies, 0 of an empty one.
func (s Sample) At(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(s))[min(int(q*float64(len(s))), len(s)-1)]
}

// Median is At(.5).
func (s Sample) Median() float64 { return s.At(.5) }

// Spread is the median with its quartiles, each printed by format.
func (s Sample) Spread(format string) string {
	return fmt.Sprintf(format+" ["+format+"–"+format+"]", s.Median(), s.At(.25), s.At(.75))
}

// Report prints figures as they come. Its zero value with an Out is ready.
type Report struct {
	Out                io.Writer
	targets            int
	missed, unmeasured []string
}

// Say prints a line.
func (r *Report) Say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.Out, format+"\n", args...) // who does not read it does not want it
}

// Figure prints what was measured, and what came out.
func (r *Report) Figure(name, format string, args ...any) {
	r.Say("   %-48s %s", name, fmt.Sprintf(format, args...))
}

// Target is a figure that should be met; target says what that means.
func (r *Report) Target(name string, met bool, target, format string, args ...any) {
	text, verdict := fmt.Sprintf(format, args...), "met"
	r.targets++
	if !met {
		verdict = "MISSED"
		r.missed = append(r.missed, fmt.Sprintf("%s: %s, target %s", name, text, target))
	}
	r.Figure(name, "%-52s target %s: %s", text, target, verdict)
}

// failure is what Check panics with.
type failure struct{ error }

// Check ends the section that is being measured, if err is not nil. It is for
// the section's own goroutine.
func Check(err error) {
	if err != nil {
		panic(failure{err})
	}
}

// Must is Check for what comes with a value.
func Must[T any](v T, err error) T {
	Check(err)
	return v
}

// Section runs one group of measurements. That one fails is no reason not to
// try the next.
func (r *Report) Section(title string, measure func()) {
	r.Say("\n== %s", title)
	defer func() {
		switch f := recover().(type) {
		case nil:
		case failure:
			r.Say("   NOT MEASURED: %v", f.error)
			r.unmeasured = append(r.unmeasured, title)
		default:
			panic(f)
		}
	}()
	measure()
}

// End prints how many targets were met, with what there is to say of the run as
// a whole, and which were not. Its error says what could not be measured at all.
func (r *Report) End(whole string) error {
	r.Say("\n%d of %d targets met%s", r.targets-len(r.missed), r.targets, whole)
	for _, m := range r.missed {
		r.Say("   missed: %s", m)
	}
	if len(r.unmeasured) > 0 {
		return errors.New("not measured: " + strings.Join(r.unmeasured, "; "))
	}
	return nil
}

// Field returns what follows a name in a file of /proc, up to the line's end,
// "" if it is not there.
func Field(file, name string) string {
	text, _ := os.ReadFile(file) // what cannot be read is not there
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			return strings.Trim(value, " \t:\n")
		}
	}
	return ""
}
