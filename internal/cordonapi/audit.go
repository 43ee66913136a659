package cordonapi

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/cordon-project/cordon"
)

// LogEntry is a [cordon.AuditEntry] in the log of the server, without the signed
// statement behind it: that of a release frees its machine.
type LogEntry struct {
	Seq     int64            `json:"seq"`
	At      time.Time        `json:"at"`
	Kind    cordon.AuditKind `json:"kind"`
	Machine cordon.MachineID `json:"machine"`
	Action  cordon.ActionID  `json:"action"`
	Actor   string           `json:"actor"`
	Detail  string           `json:"detail"`
}

// Log is a page of the server's log, newest first.
type Log struct {
	Value []LogEntry `json:"value"`
	Next  int64      `json:"next,omitempty"` // what "before" has to be for the next page; 0: this is the last one
}

// defaultAudit is how many entries a page has if nobody says how many.
const defaultAudit = 100

func (a *API) audit(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	q, err := auditQuery(r)
	if err != nil {
		return err
	}
	entries, more, err := a.Service.AuditLog(r.Context(), c, q)
	if err != nil {
		return err
	}
	log := Log{Value: make([]LogEntry, len(entries))}
	for i, e := range entries {
		log.Value[i] = LogEntry{e.Seq, e.At, e.Kind, e.Machine, e.Action, e.Actor, e.Detail}
	}
	if more {
		log.Next = entries[len(entries)-1].Seq
	}
	writeJSON(w, http.StatusOK, log)
	return nil
}

// auditQuery reads the query string. What it does not know is an error, or
// somebody would take a longer log for the one that was asked for.
func auditQuery(r *http.Request) (q cordon.AuditQuery, err error) {
	q.Limit = defaultAudit
	wrong := func(name, what string) error {
		return cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, "The parameter %.64q of the query %s", name, what)
	}
	query, err := url.ParseQuery(r.URL.RawQuery) // which net/http has bounded
	if err != nil {
		return q, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, "The query cannot be read")
	}
	for name, values := range query {
		if name != "kind" && len(values) > 1 {
			return q, wrong(name, "is there more than once")
		}
		var err error
		switch value := values[0]; name {
		case "kind":
			for _, v := range values {
				q.Kinds = append(q.Kinds, cordon.AuditKind(v))
			}
		case "since":
			if q.Since, err = time.Parse(time.RFC3339, value); err != nil {
				return q, wrong(name, "is no time such as 2026-01-24T22:17:02Z")
			}
		case "before":
			if q.Before, err = strconv.ParseInt(value, 10, 64); err != nil || q.Before < 1 {
				return q, wrong(name, "is not what an answer gave as next")
			}
		case "top":
			if q.Limit, err = strconv.Atoi(value); err != nil {
				return q, wrong(name, "is no number")
			}
		default:
			return q, wrong(name, "is not known")
		}
	}
	return q, nil
}
