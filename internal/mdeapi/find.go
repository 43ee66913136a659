package mdeapi

import (
	"net/url"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/odata"
)

// findByIP serves GET /api/machines/findbyip(ip='…',timestamp=…). Of the query
// options it knows $select, $top and $count.
func (a *api) findByIP(c *call) ([]byte, error) {
	args, err := functionArguments(c.args[0], "ip", "timestamp")
	if err != nil {
		return nil, err
	}
	at, ok := timestamp(args["timestamp"])
	if !ok {
		return nil, invalid("timestamp: %.64q is not a time like 2026-01-24T22:17:02Z.", args["timestamp"])
	}
	q, err := odata.Parse(c.URL.RawQuery, odata.Machines)
	if err != nil {
		return nil, err
	}
	if q.Filter != nil || q.OrderBy != nil || q.Skip > 0 {
		return nil, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidQuery, "Invalid OData URI query. findbyip cannot be combined with $filter, $orderby or $skip.")
	}
	found, err := a.Service.MachinesSeen(c.Context(), c.caller, args["ip"], at)
	if err != nil {
		return nil, err
	}
	p := page[machineRow]{rows: rowsOf(found, a.Now()), count: len(found)}
	if q.HasTop {
		p.rows = p.rows[:min(q.Top, len(p.rows))]
	}
	return machine.collection(c, q, p), nil
}

// functionArguments reads what stands between the parentheses of a function:
// name=value, in any order and the names in any case. A value may be quoted, the
// quote itself is then doubled in it. Every name is needed, and no other known.
func functionArguments(s string, names ...string) (map[string]string, error) {
	args := make(map[string]string)
	for rest := s; strings.TrimSpace(rest) != ""; {
		name, value, ok := strings.Cut(rest, "=")
		if !ok {
			return nil, badArguments(s)
		}
		if value = strings.TrimLeft(value, " "); strings.HasPrefix(value, "'") {
			if value, rest, ok = quoted(value); !ok {
				return nil, badArguments(s)
			}
		} else {
			end := strings.IndexByte(value, ',')
			if end < 0 {
				end = len(value)
			}
			value, rest = strings.TrimSpace(value[:end]), value[end:]
		}
		if name = cordon.Fold(strings.TrimSpace(name)); args[name] != "" {
			return nil, badArguments(s)
		}
		args[name] = strings.TrimSpace(value)
		if rest = strings.TrimSpace(rest); rest != "" {
			if rest, ok = strings.CutPrefix(rest, ","); !ok {
				return nil, badArguments(s)
			}
		}
	}
	for _, name := range names {
		if args[name] == "" {
			return nil, missing(name)
		}
	}
	if len(args) > len(names) {
		return nil, badArguments(s)
	}
	return args, nil
}

// quoted splits an OData string literal from what comes behind it.
func quoted(s string) (value, rest string, ok bool) {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] != '\'':
		case i+1 < len(s) && s[i+1] == '\'':
			i++
		default:
			return strings.ReplaceAll(s[1:i], "''", "'"), s[i+1:], true
		}
	}
	return "", "", false
}

func badArguments(s string) error {
	return badRequest("The arguments (%.64s) of the function cannot be read. Write them as in findbyip(ip='10.0.0.1',timestamp=2026-01-24T22:17:02Z).", s)
}

// timestamp reads a time as clients were seen to write it, and with what
// RFC 3339 leaves open: a blank for the T, no seconds, no time, no zone (UTC). The
// plus of a zone may have become a blank on the way.
func timestamp(s string) (time.Time, bool) {
	s = strings.ToUpper(s)
	if n := len(s); n > 6 && s[n-6] == ' ' && s[n-3] == ':' && strings.ContainsRune(s, 'T') {
		s = s[:n-6] + "+" + s[n-5:]
	}
	if len(s) > 10 && s[10] == ' ' {
		s = s[:10] + "T" + s[11:]
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		for _, zone := range []string{"Z07:00", ""} {
			if t, err := time.Parse(layout+zone, s); err == nil {
				return t.UTC(), true
			}
		}
	}
	return time.Time{}, false
}

// findByTag serves GET /api/machines/findbytag?tag=…&useStartsWithFilter=….
func (a *api) findByTag(c *call) ([]byte, error) {
	values, err := parameters(c.URL.RawQuery, "tag", "usestartswithfilter")
	if err != nil {
		return nil, err
	}
	tag := cordon.Fold(strings.TrimSpace(values["tag"]))
	if tag == "" {
		return nil, missing("tag")
	}
	var element cordon.Expr = cordon.Compare{Field: cordon.ElementField, Op: cordon.Eq, Value: tag}
	switch cordon.Fold(values["usestartswithfilter"]) {
	case "", "false":
	case "true":
		element = cordon.Match{Field: cordon.ElementField, Kind: cordon.StartsWith, Text: tag}
	default:
		return nil, invalid("useStartsWithFilter: %.64q is neither true nor false.", values["usestartswithfilter"])
	}
	return a.machinesWhere(c, cordon.Any{Field: cordon.FieldTags, X: element})
}

// parameters returns the values of parameters of the query string, by their
// names in lower case. Others are for [odata.Parse].
func parameters(rawQuery string, names ...string) (map[string]string, error) {
	values := make(map[string]string)
	for param := range strings.SplitSeq(rawQuery, "&") {
		rawName, rawValue, _ := strings.Cut(param, "=")
		name, err := url.QueryUnescape(rawName)
		if err != nil {
			continue // the parser of the query options says so
		}
		name = cordon.Fold(strings.TrimSpace(name))
		for _, known := range names {
			if name != known {
				continue
			}
			value, err := url.QueryUnescape(rawValue)
			if _, again := values[name]; again || err != nil {
				return nil, invalid("%s: it is given twice, or cannot be decoded.", name)
			}
			values[name] = value
		}
	}
	return values, nil
}
