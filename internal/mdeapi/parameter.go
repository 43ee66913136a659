package mdeapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/cordon-project/cordon"
)

// parameter is a member that the body of an action has besides Comment
// (Defender contract 7). For each request, value returns where to decode it to
// and what then judges it.
type parameter struct {
	name  string
	value func() (into any, check func() error)
}

const (
	optional = false
	required = true
)

// choice is a parameter that is one of a few words. They are taken in any case:
// which one was meant is clear.
func choice(name string, needed bool, words ...string) parameter {
	return stringParameter(name, needed, func(s string) error {
		if slices.ContainsFunc(words, func(w string) bool { return strings.EqualFold(w, s) }) {
			return nil
		}
		return invalid("%s: %.64q is none of %s.", name, s, strings.Join(words, ", "))
	})
}

var (
	sha1Digits = regexp.MustCompile(`^[0-9a-fA-F]{40}$`)
	sha1Hash   = stringParameter("Sha1", required, func(s string) error {
		if sha1Digits.MatchString(s) {
			return nil
		}
		return &problem{status: http.StatusBadRequest, code: "InvalidHashValue", message: fmt.Sprintf("Hash value %.64s is invalid.", s)}
	})
)

// stringParameter is a parameter whose check is only asked about what is there.
// Null and the empty string are not.
func stringParameter(name string, needed bool, check func(string) error) parameter {
	return parameter{name, func() (any, func() error) {
		var s *string
		return &s, func() error {
			switch {
			case s != nil && *s != "":
				return check(*s)
			case needed:
				return missing(name)
			}
			return nil
		}
	}}
}

// liveCommands are the commands of a live response, in the order in which they
// have to come, each as often as one likes.
var liveCommands = parameter{"Commands", func() (any, func() error) {
	var commands []json.RawMessage
	return &commands, func() error {
		if len(commands) == 0 {
			return missing("Commands")
		}
		latest := 0
		for _, command := range commands {
			place, err := liveCommand(command)
			if err != nil {
				return err
			}
			if place < latest {
				return invalid("Commands: they must come in the order PutFile, RunScript, GetFile.")
			}
			latest = place
		}
		return nil
	}
}}

type liveCommandType struct {
	name string
	keys []string // of its parameters
}

var liveCommandTypes = []liveCommandType{
	{"PutFile", []string{"FileName"}},
	{"RunScript", []string{"ScriptName", "Args"}},
	{"GetFile", []string{"Path"}},
}

// liveCommand checks {"type":"…","params":[{"key":"…","value":"…"}]} and returns
// its type's place in liveCommandTypes.
func liveCommand(command json.RawMessage) (place int, err error) {
	var name string
	var params []json.RawMessage
	if err := decodeObject(command, map[string]any{"type": &name, "params": &params}); err != nil {
		return 0, err
	}
	place = slices.IndexFunc(liveCommandTypes, func(t liveCommandType) bool { return t.name == name })
	if place < 0 {
		return 0, invalid("Commands: there is no command %.64q.", name)
	}
	for _, param := range params {
		var key, value string
		if err := decodeObject(param, map[string]any{"key": &key, "value": &value}); err != nil {
			return 0, err
		}
		if !slices.Contains(liveCommandTypes[place].keys, key) {
			return 0, invalid("Commands: %s has no parameter %.64q.", name, key)
		}
	}
	return place, nil
}

func missing(name string) error {
	return cordon.Errorf(cordon.Invalid, cordon.CodeMissingParameter, "Parameter %s is missing.", name)
}

func invalid(format string, args ...any) error {
	return cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, "Invalid input "+format, args...)
}
