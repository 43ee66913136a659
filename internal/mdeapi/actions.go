package mdeapi

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/odata"
)

type actionRow = cordon.Action

// machineAction is Defender's MachineAction (contract 4): always these 20
// members, in this order.
var machineAction = resource[actionRow]{"MachineActions", []member[actionRow]{
	{cordon.FieldID, text(func(a *actionRow) cordon.ActionID { return a.ID })},
	{cordon.FieldType, text(func(a *actionRow) cordon.ActionType { return a.Type })},
	{"title", literal[actionRow]("null")},
	{cordon.FieldRequestor, text(func(a *actionRow) string { return a.Requestor })},
	{"requestorComment", text(func(a *actionRow) string { return a.Comment })},
	{cordon.FieldStatus, text(func(a *actionRow) cordon.Status { return a.Status })},
	{cordon.FieldMachineID, text(func(a *actionRow) cordon.MachineID { return a.Machine })},
	{cordon.FieldDNSName, textOrNull(func(a *actionRow) string { return a.DNSName })},
	{cordon.FieldCreated, moment(func(a *actionRow) time.Time { return a.Created })},
	{cordon.FieldUpdated, moment(func(a *actionRow) time.Time { return a.Updated })},
	{"cancellationRequestor", cancellation(func(b []byte, c *cordon.Cancellation) []byte { return appendString(b, c.RequestorID) })},
	{"cancellationComment", cancellation(func(b []byte, c *cordon.Cancellation) []byte { return appendStringOrNull(b, c.Comment) })},
	{"cancellationDateTimeUtc", cancellation(func(b []byte, c *cordon.Cancellation) []byte { return appendTime(b, c.At) })},
	{"errorHResult", func(b []byte, a *actionRow) []byte { return strconv.AppendInt(b, int64(a.ErrorHResult), 10) }},
	{"scope", literal[actionRow]("null")},
	{"externalId", literal[actionRow]("null")},
	{"requestSource", text(func(a *actionRow) string { return a.Source })},
	{"relatedFileInfo", literal[actionRow]("null")},
	{"commands", literal[actionRow]("[]")},
	{"troubleshootInfo", literal[actionRow]("null")},
}}

// cancellation writes a part of the wish to cancel while the action is open and
// where the wish came true. If it came too late the action shows what happened,
// which is not a cancellation; the audit log keeps the wish.
func cancellation(write func([]byte, *cordon.Cancellation) []byte) func([]byte, *actionRow) []byte {
	return func(b []byte, a *actionRow) []byte {
		if a.Cancel == nil || a.Status.Terminal() && a.Status != cordon.Cancelled {
			return append(b, "null"...)
		}
		return write(b, a.Cancel)
	}
}

// request returns what serves POST /api/machines/{machine}/{action}.
func request(t cordon.ActionType, params []parameter) func(*api, *call) ([]byte, error) {
	return func(a *api, c *call) ([]byte, error) {
		m, err := a.findMachine(c, t.Operation())
		if err != nil {
			return nil, err
		}
		comment, err := c.readBody(params)
		if err != nil {
			return nil, err
		}
		action, err := a.Service.Request(c.Context(), c.caller, m, t, comment)
		if err != nil {
			return nil, err
		}
		return machineAction.entity(c, &action), nil
	}
}

// listActions serves GET /api/machineactions.
func (a *api) listActions(c *call) ([]byte, error) {
	q, p, err := read(c, odata.MachineActions, a.pageSize, a.Service.Actions)
	if err != nil {
		return nil, err
	}
	return machineAction.collection(c, q, p), nil
}

// getAction serves GET /api/machineactions/{id}.
func (a *api) getAction(c *call) ([]byte, error) {
	id, err := actionID(c.args[0])
	if err != nil {
		return nil, err
	}
	action, err := a.Service.Action(c.Context(), c.caller, id)
	if err != nil {
		return nil, noAction(err, id)
	}
	return machineAction.entity(c, &action), nil
}

// cancelAction serves POST /api/machineactions/{id}/cancel. The comment may be
// left out: Microsoft's documentation and its connector disagree (contract 14.7).
func (a *api) cancelAction(c *call) ([]byte, error) {
	id, err := actionID(c.args[0])
	if err != nil {
		return nil, err
	}
	comment, err := c.readBody(nil)
	if err != nil {
		return nil, err
	}
	action, err := a.Service.Cancel(c.Context(), c.caller, id, comment)
	if err != nil {
		return nil, noAction(err, id)
	}
	return machineAction.entity(c, &action), nil
}

// download returns what serves GET of what an action has brought back from its
// machine: a package, or the result of one command (an index, the second
// variable). No action that Cordon performs brings anything back.
func download(op cordon.Operation) func(*api, *call) ([]byte, error) {
	return func(a *api, c *call) ([]byte, error) {
		id, err := actionID(c.args[0])
		if err != nil {
			return nil, err
		}
		for _, index := range c.args[1:] {
			if _, err := strconv.ParseUint(index, 10, 31); err != nil {
				return nil, badRequest("The index (%.64s) from request is not valid. It must be the number of a command, the first being 0.", index)
			}
		}
		action, err := a.Service.FindAction(c.Context(), c.caller, op, id)
		if err != nil {
			return nil, noAction(err, id)
		}
		m, err := a.Service.Find(c.Context(), c.caller, op, string(action.Machine))
		if err != nil {
			return nil, err
		}
		return nil, m.Facts.Unsupported()
	}
}

var guid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// actionID reads the key of an action. The error is the one that Defender was
// seen to give.
func actionID(key string) (cordon.ActionID, error) {
	if id := strings.ToLower(key); guid.MatchString(id) {
		return cordon.ActionID(id), nil
	}
	return "", badRequest("The key value (%.64s) from request is not valid. The key value should be format of type 'Edm.Guid'.", key)
}

func badRequest(format string, args ...any) error {
	return &problem{status: http.StatusBadRequest, code: "BadRequest", message: fmt.Sprintf(format, args...)}
}

// noAction puts an error of kind NotFound into the words of this API.
func noAction(err error, id cordon.ActionID) error {
	if cordon.KindOf(err) != cordon.NotFound {
		return err
	}
	return cordon.Errorf(cordon.NotFound, "", "Machine action %s was not found", id)
}

// listAlerts serves GET /api/alerts: there are none, whatever the query.
func (a *api) listAlerts(c *call) ([]byte, error) {
	return resource[struct{}]{set: "Alerts"}.collection(c, cordon.Query{}, page[struct{}]{}), nil
}

// getAlert serves GET /api/alerts/{id}: there is none.
func (a *api) getAlert(c *call) ([]byte, error) {
	return nil, cordon.Errorf(cordon.NotFound, "", "Alert %.64s was not found", c.args[0])
}
