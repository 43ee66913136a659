package cordon

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// DeviceValue says how much a machine matters to its owners.
type DeviceValue string

// The values of a machine, in Defender's words (contract 8).
const (
	LowValue    DeviceValue = "Low"
	NormalValue DeviceValue = "Normal" // of a machine of which nobody said another
	HighValue   DeviceValue = "High"
)

// ParseDeviceValue reads a device value in any case.
func ParseDeviceValue(s string) (DeviceValue, bool) {
	for _, v := range []DeviceValue{LowValue, NormalValue, HighValue} {
		if strings.EqualFold(s, string(v)) {
			return v, true
		}
	}
	return "", false
}

// Labels are what people say of a machine. The machine does not know them.
type Labels struct {
	Tags  []string // as [NormalizeTags] returns them, in the order in which they were added
	Value DeviceValue
}

// The limits of labels. Defender documents the length of a tag (contract 11)
// and the size of a batch (contract 8); the number of tags keeps rows small.
const (
	MaxTagLength  = 200 // characters
	MaxTags       = 100 // of one machine
	MaxLabelBatch = 500 // machines of one request
)

// NormalizeTags is all that there is to know about tags: what one may be, how
// many there may be, and which are the same. Blanks around a tag do not count.
// Two tags are the same if [Fold] makes them so, and the first spelling stays.
func NormalizeTags(tags []string) ([]string, error) {
	var kept []string
	for _, tag := range tags {
		tag = strings.TrimSpace(tag)
		switch n := utf8.RuneCountInString(tag); {
		case tag == "":
			return nil, Errorf(Invalid, CodeInvalidInput, "Invalid input tag: it is empty.")
		case !utf8.ValidString(tag) || strings.ContainsFunc(tag, unicode.IsControl):
			return nil, Errorf(Invalid, CodeInvalidInput, "Invalid input tag: it has control characters, or is not valid UTF-8.")
		case n > MaxTagLength:
			return nil, Errorf(Invalid, CodeInvalidInput, "Invalid input tag: it has %d characters, allowed are %d.", n, MaxTagLength)
		}
		if !slices.ContainsFunc(kept, sameTag(tag)) {
			kept = append(kept, tag)
		}
	}
	if len(kept) > MaxTags {
		return nil, Errorf(Invalid, CodeInvalidInput, "Invalid input tag: the machine would have %d tags, allowed are %d.", len(kept), MaxTags)
	}
	return kept, nil
}

func sameTag(tag string) func(string) bool {
	folded := Fold(tag)
	return func(other string) bool { return Fold(other) == folded }
}

// LabelUpdate says what becomes of a machine's labels. Its zero value leaves
// them as they are.
type LabelUpdate struct {
	Tags   *[]string   // all tags from now on; nil: those that there are
	Add    string      // a tag, after that; empty: none
	Remove string      // a tag, after that; empty: none
	Value  DeviceValue // empty: unchanged
}

// Apply returns the labels after the update. To add a tag that is there, or to
// remove one that is not, changes nothing. The error is of kind Invalid.
func (l Labels) Apply(u LabelUpdate) (Labels, error) {
	tags := slices.Clone(l.Tags)
	if u.Tags != nil {
		tags = slices.Clone(*u.Tags)
	}
	if u.Add != "" {
		tags = append(tags, u.Add)
	}
	tags, err := NormalizeTags(tags)
	if err != nil {
		return l, err
	}
	if remove := strings.TrimSpace(u.Remove); remove != "" {
		tags = slices.DeleteFunc(tags, sameTag(remove))
	}
	l.Tags = tags
	if u.Value != "" {
		l.Value = u.Value
	}
	return l, nil
}

// difference says in a sentence how labels became others; empty: they did not.
func (l Labels) difference(to Labels) string {
	var parts []string
	name := func(verb string, tags, not []string) {
		for _, tag := range tags {
			if !slices.Contains(not, tag) {
				parts = append(parts, fmt.Sprintf("tag %q %s", tag, verb))
			}
		}
	}
	name("removed", l.Tags, to.Tags)
	name("added", to.Tags, l.Tags)
	if l.Value != to.Value {
		parts = append(parts, fmt.Sprintf("value %s instead of %s", to.Value, l.Value))
	}
	return strings.Join(parts, ", ")
}
