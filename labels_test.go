package cordon

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func TestNormalizeTags(t *testing.T) {
	many := func(n int) (tags []string) {
		for i := range n {
			tags = append(tags, strings.Repeat("x", i+1))
		}
		return tags
	}
	tests := []struct {
		what       string
		tags, want []string
		bad        string // part of the error
	}{
		{"none", nil, nil, ""},
		{"order and spelling stay", []string{"web", "Prod"}, []string{"web", "Prod"}, ""},
		{"the first spelling", []string{"Prod", "PROD", " prod "}, []string{"Prod"}, ""},
		{"case is a matter of A to Z", []string{"ä", "Ä"}, []string{"ä", "Ä"}, ""},
		{"blanks inside", []string{" two  words\t"}, []string{"two  words"}, ""},
		{"longest", []string{strings.Repeat("é", MaxTagLength)}, []string{strings.Repeat("é", MaxTagLength)}, ""},
		{"too long", []string{strings.Repeat("é", MaxTagLength+1)}, nil, "201 characters"},
		{"empty", []string{"a", ""}, nil, "empty"},
		{"blank", []string{" \t"}, nil, "empty"},
		{"not text", []string{"\xff"}, nil, "UTF-8"},
		{"control character", []string{"a\x1b[2J"}, nil, "control"},
		{"line", []string{"a\nb"}, nil, "control"},
		{"most", many(MaxTags), many(MaxTags), ""},
		{"too many", many(MaxTags + 1), nil, "101 tags"},
		{"not too many: they are the same", append(many(MaxTags), "X"), many(MaxTags), ""},
	}
	for _, tt := range tests {
		got, err := NormalizeTags(tt.tags)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.what, diff)
		}
		if tt.bad == "" && err != nil || tt.bad != "" && (CodeOf(err) != CodeInvalidInput || KindOf(err) != Invalid || !strings.Contains(err.Error(), tt.bad)) {
			t.Errorf("%s: error %v", tt.what, err)
		}
	}
}

func TestLabelsApply(t *testing.T) {
	list := func(tags ...string) *[]string { return &tags }
	base := Labels{Tags: []string{"a", "B"}, Value: NormalValue}
	tests := []struct {
		update LabelUpdate
		want   Labels
		says   string
	}{
		{LabelUpdate{}, base, ""},
		{LabelUpdate{Add: "c"}, Labels{[]string{"a", "B", "c"}, NormalValue}, `tag "c" added`},
		{LabelUpdate{Add: "b"}, base, ""},
		{LabelUpdate{Remove: " b "}, Labels{[]string{"a"}, NormalValue}, `tag "B" removed`},
		{LabelUpdate{Remove: "c"}, base, ""},
		{LabelUpdate{Tags: list("c", "C", "a")}, Labels{[]string{"c", "a"}, NormalValue}, `tag "B" removed, tag "c" added`},
		{LabelUpdate{Tags: list("b")}, Labels{[]string{"b"}, NormalValue}, `tag "a" removed, tag "B" removed, tag "b" added`},
		{LabelUpdate{Tags: list(), Value: HighValue}, Labels{nil, HighValue}, `tag "a" removed, tag "B" removed, value High instead of Normal`},
		{LabelUpdate{Value: NormalValue}, base, ""},
	}
	for _, tt := range tests {
		before := slices.Clone(base.Tags)
		got, err := base.Apply(tt.update)
		if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("%+v: %v (-want +got):\n%s", tt.update, err, diff)
		}
		if says := base.difference(got); says != tt.says {
			t.Errorf("%+v: says %q, want %q", tt.update, says, tt.says)
		}
		if !slices.Equal(before, base.Tags) {
			t.Fatalf("%+v changed its receiver", tt.update)
		}
	}
	if _, err := base.Apply(LabelUpdate{Add: " "}); CodeOf(err) != CodeInvalidInput {
		t.Errorf("blank: %v", err)
	}
}

// TestLabelsNeverInvalid: whatever is done to labels, the rules hold of them.
func TestLabelsNeverInvalid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Labels
		tag := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"a", "A", "b", " a"}))
		for range rapid.IntRange(0, 8).Draw(t, "steps") {
			u := LabelUpdate{Add: tag.Draw(t, "add"), Remove: rapid.SampledFrom([]string{"", "A", "b"}).Draw(t, "remove")}
			if next, err := l.Apply(u); err == nil {
				l = next
			}
		}
		again, err := NormalizeTags(l.Tags)
		if err != nil || !slices.Equal(again, l.Tags) {
			t.Fatalf("%q became %q, %v", l.Tags, again, err)
		}
	})
}

func TestParseDeviceValue(t *testing.T) {
	for s, want := range map[string]DeviceValue{"Low": LowValue, "NORMAL": NormalValue, "high": HighValue, "": "", "Critical": "", " Low": ""} {
		if got, ok := ParseDeviceValue(s); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t", s, got, ok)
		}
	}
}
