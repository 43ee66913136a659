package cordon

import (
	"slices"
	"strconv"
	"strings"
)

// since is the version from which on agents carry out an action type; what is
// not here every agent does. Unrestrict must not be here: a machine whose agent
// is old has to be releasable too.
var since = map[ActionType]string{
	RestrictCodeExecution: "0.1.0", // the first that there is
}

// Supports returns nil if an action of type t can be carried out on a machine
// with these facts. Otherwise it is an error of kind Invalid: with
// CodePlatformUnsupport if no agent for its operating system could, with
// CodeVersionUnsupport if a newer one could. Whether the machine's kernel can do
// it is the agent's answer.
func (f Facts) Supports(t ActionType) error {
	performed := t == RestrictCodeExecution || t == UnrestrictCodeExecution
	switch v, limited := since[t]; {
	case !performed || !f.SupportsRestriction():
		return f.Unsupported()
	case limited && isOlder(f.AgentVersion, v):
		return Errorf(Invalid, CodeVersionUnsupport, "%s is supported on client version %s and above.", t, v)
	}
	return nil
}

// Unsupported is the error that something cannot be done on the machine's
// operating system (Defender contract 3.2).
func (f Facts) Unsupported() error {
	platform := f.OSPlatform
	if platform == "" {
		platform = "Unknown"
	}
	return Errorf(Invalid, CodePlatformUnsupport, "OS Platform %s is not supported for this action.", platform)
}

// isOlder reports whether version is known to be older than another one. Only
// the three numbers count, so that a pre-release of a version can what the
// version can. 0.0.0 is a build that does not know its version, and what has no
// three numbers says nothing: neither is held against a machine.
func isOlder(version, than string) bool {
	v, ok := numbers(version)
	w, known := numbers(than)
	return ok && known && v != [3]uint64{} && slices.Compare(v[:], w[:]) < 0
}

func numbers(version string) (n [3]uint64, ok bool) {
	version = strings.TrimPrefix(version, "v")
	if i := strings.IndexAny(version, "-+"); i >= 0 {
		version = version[:i]
	}
	parts := strings.Split(version, ".")
	if len(parts) != len(n) {
		return n, false
	}
	for i, part := range parts {
		var err error
		if n[i], err = strconv.ParseUint(part, 10, 32); err != nil {
			return n, false
		}
	}
	return n, true
}
