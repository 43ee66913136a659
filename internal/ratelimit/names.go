package ratelimit

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The names of limits, with what the [ID] of their buckets is made of. They are
// in saved snapshots: a name is never used for something else.
const (
	// NameAPI limits the calls of one application of one tenant to one API:
	// tenant id | client id | API.
	NameAPI = "api"
	// NameGuess limits wrong secrets for one client from one address:
	// client id | address.
	NameGuess = "guess"
	// NameGuessAddress limits wrong secrets from one address, for whomever: address.
	NameGuessAddress = "guess-address"
)

// The limits of wrong secrets.
var (
	guesses        = Limit{10, time.Minute}
	addressGuesses = Limit{100, time.Minute}
)

// ID returns the parts as the ID of a bucket. Parts that differ give IDs that
// differ. A part that is longer than 64 bytes or has other than printable ASCII
// characters in it is replaced by a digest, so that the length of an ID is
// bounded, whoever made it up.
func ID(parts ...string) string {
	const longest = 64
	words := make([]string, len(parts))
	for i, p := range parts {
		odd := strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r > '~' || r == '|' || r == '#' })
		if words[i] = p; odd || len(p) > longest {
			digest := sha256.Sum256([]byte(p))
			words[i] = "#" + hex.EncodeToString(digest[:16])
		}
	}
	return strings.Join(words, "|")
}

// Rule sets the limits of an API for an application. An empty Application means
// every one. API is an operation by the last word of its path, as in runliveresponse,
// in any case and without what stands in parentheses behind it; empty it means every API that has no rule of its own. The limits
// hold together and take the place of those that would hold otherwise.
type Rule struct {
	Application, API string
	Limits           []Limit
}

// defender are the limits of Defender (contract 3.5).
var defender = []Rule{
	{Limits: []Limit{{100, time.Minute}, {1500, time.Hour}}},
	{API: "getPackageUri", Limits: []Limit{{2, time.Minute}, {120, time.Hour}}},
	{API: "runliveresponse", Limits: []Limit{{10, time.Minute}}},
	{API: "startInvestigation", Limits: []Limit{{50, time.Hour}}}, // page "Start investigation API"
}

// Table knows which limits hold for a call to an API.
type Table struct{ limits map[scope][]Limit }

type scope struct{ application, api string }

func (r Rule) scope() scope { return scope{strings.ToLower(r.Application), strings.ToLower(r.API)} }

// NewTable returns Defender's limits, with the given rules over them. It is an
// error if two rules are for the same, if a rule has no limit or two with the
// same period, and if a limit does not pass [Limit.Check].
func NewTable(rules ...Rule) (*Table, error) {
	t := &Table{limits: make(map[scope][]Limit)}
	for _, r := range defender {
		t.limits[r.scope()] = r.Limits
	}
	seen := make(map[scope]bool)
	for _, r := range rules {
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("limits of %s: %w", r.what(), err)
		}
		if seen[r.scope()] {
			return nil, fmt.Errorf("limits of %s are given twice", r.what())
		}
		seen[r.scope()] = true
		t.limits[r.scope()] = slices.Clone(r.Limits)
	}
	return t, nil
}

func (r Rule) check() error {
	if len(r.Limits) == 0 {
		return fmt.Errorf("there are none")
	}
	periods := make(map[time.Duration]bool)
	for _, l := range r.Limits {
		if err := l.Check(); err != nil {
			return err
		}
		if periods[l.Period] {
			return fmt.Errorf("there are two per %s", l.Period)
		}
		periods[l.Period] = true
	}
	return nil
}

// what names what the rule is for.
func (r Rule) what() string {
	application, api := "all applications", "all APIs"
	if r.Application != "" {
		application = "application " + r.Application
	}
	if r.API != "" {
		api = "API " + r.API
	}
	return application + " and " + api
}

// Limits returns the limits for calls of an application to an API. An API's own
// limits go before those of an application that name no API: they are there
// because the operation is expensive.
func (t *Table) Limits(application, api string) []Limit {
	application = strings.ToLower(application)
	operation, _, _ := strings.Cut(strings.ToLower(api[strings.LastIndexAny(api, "/ ")+1:]), "(")
	for _, s := range []scope{{application, operation}, {"", operation}, {application, ""}} {
		if limits, ok := t.limits[s]; ok {
			return limits
		}
	}
	return t.limits[scope{}]
}

// Buckets returns what a call has to be taken from. The API is named by the
// method and the path of its route, as in "POST machines/*/runliveresponse".
func (t *Table) Buckets(tenant, application, api string) []Bucket {
	id := ID(tenant, strings.ToLower(application), api)
	var buckets []Bucket
	for _, l := range t.Limits(application, api) {
		buckets = append(buckets, Bucket{NameAPI, id, l})
	}
	return buckets
}
