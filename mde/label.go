package mde

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The values of a machine.
const (
	LowValue    = "Low"
	NormalValue = "Normal"
	HighValue   = "High"
)

// FindMachinesByIP returns the machines that had an IP address within 15
// minutes of a time, which is at most 30 days ago; first who had it last.
func (c *Client) FindMachinesByIP(ctx context.Context, ip string, at time.Time) ([]Machine, error) {
	function := "findbyip(ip='" + strings.ReplaceAll(ip, "'", "''") + "',timestamp=" + at.UTC().Format("2006-01-02T15:04:05.9999999Z") + ")"
	var page struct{ Value []Machine }
	err := c.get(ctx, c.address("/api/machines/"+url.PathEscape(function), nil), &page)
	return page.Value, err
}

// FindMachinesByTag lists the machines that have a tag, in any case, or if
// prefix is set one that begins so. The loop ends with the first error.
func (c *Client) FindMachinesByTag(ctx context.Context, tag string, prefix bool) iter.Seq2[Machine, error] {
	query := url.Values{"tag": {tag}, "useStartsWithFilter": {strconv.FormatBool(prefix)}}
	return pages[Machine](ctx, c, c.address("/api/machines/findbytag", query), 0)
}

// tagChange is what changes a tag on the wire.
type tagChange struct {
	Value, Action string
	MachineIDs    []string `json:"MachineIds,omitempty"`
}

// AddTag adds a tag to the machine that ref names (see [Client.GetMachine]),
// and returns it as it is then.
func (c *Client) AddTag(ctx context.Context, ref, tag string) (Machine, error) {
	return c.label(ctx, http.MethodPost, ref, "/tags", tagChange{Value: tag, Action: "Add"})
}

// RemoveTag is the opposite of [Client.AddTag].
func (c *Client) RemoveTag(ctx context.Context, ref, tag string) (Machine, error) {
	return c.label(ctx, http.MethodPost, ref, "/tags", tagChange{Value: tag, Action: "Remove"})
}

// AddTagToMany adds a tag to up to 500 machines, to all of them or to none, and
// returns them as they are then.
func (c *Client) AddTagToMany(ctx context.Context, refs []string, tag string) ([]Machine, error) {
	return c.tagMany(ctx, tagChange{tag, "Add", refs})
}

// RemoveTagFromMany is the opposite of [Client.AddTagToMany].
func (c *Client) RemoveTagFromMany(ctx context.Context, refs []string, tag string) ([]Machine, error) {
	return c.tagMany(ctx, tagChange{tag, "Remove", refs})
}

func (c *Client) tagMany(ctx context.Context, change tagChange) ([]Machine, error) {
	var page struct{ Value []Machine }
	err := c.post(ctx, c.address("/api/machines/AddOrRemoveTagForMultipleMachines", nil), change, &page)
	return page.Value, err
}

// SetDeviceValue sets the value of a machine: LowValue, NormalValue or HighValue.
func (c *Client) SetDeviceValue(ctx context.Context, ref, value string) (Machine, error) {
	return c.label(ctx, http.MethodPost, ref, "/setDeviceValue", map[string]string{"DeviceValue": value})
}

// MachineUpdate says what to change of a machine; nil leaves it as it is.
type MachineUpdate struct {
	MachineTags *[]string `json:"machineTags,omitempty"` // all tags from then on
	DeviceValue *string   `json:"deviceValue,omitempty"`
}

// UpdateMachine changes tags and value of a machine at once.
func (c *Client) UpdateMachine(ctx context.Context, ref string, u MachineUpdate) (Machine, error) {
	return c.label(ctx, http.MethodPatch, ref, "", u)
}

func (c *Client) label(ctx context.Context, method, ref, verb string, change any) (Machine, error) {
	path, err := machinePath(ref)
	if err != nil {
		return Machine{}, err
	}
	var m Machine
	err = c.write(ctx, method, c.address(path+verb, nil), change, &m)
	return m, err
}
