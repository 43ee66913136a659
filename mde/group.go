package mde

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// Group is a device group of Cordon's: machines that an administrator chose. A
// machine shows its group as RBACGroupID and RBACGroupName.
type Group struct {
	ID       int64     `json:"id"`
	Name     string    `json:"name"`
	Created  time.Time `json:"created"`
	Machines int       `json:"machines"` // how many are in it
	Trusted  int       `json:"trusted"`  // how many files are trusted there
}

func (c *Client) group(name, rest string) (string, error) {
	s, err := segment("name of a group", name)
	return c.address("/cordon/v1/groups/"+s+rest, nil), err
}

// ListGroups returns all groups, by name.
func (c *Client) ListGroups(ctx context.Context) ([]Group, error) {
	var list struct{ Value []Group }
	err := c.get(ctx, c.address("/cordon/v1/groups", nil), &list)
	return list.Value, err
}

// GetGroup returns one group. Upper and lower case of its name are the same.
func (c *Client) GetGroup(ctx context.Context, name string) (Group, error) {
	var g Group
	address, err := c.group(name, "")
	if err != nil {
		return g, err
	}
	return g, c.get(ctx, address, &g)
}

// CreateGroup makes an empty group.
func (c *Client) CreateGroup(ctx context.Context, name string) (Group, error) {
	var g Group
	return g, c.post(ctx, c.address("/cordon/v1/groups", nil), map[string]string{"name": name}, &g)
}

// RenameGroup gives a group another name. Its id, its machines, and what is
// trusted for it stay as they are.
func (c *Client) RenameGroup(ctx context.Context, name, to string) (Group, error) {
	var g Group
	address, err := c.group(name, "")
	if err != nil {
		return g, err
	}
	return g, c.write(ctx, http.MethodPatch, address, map[string]string{"name": to}, &g)
}

// DeleteGroup deletes a group for which nothing is trusted. Its machines are in
// none then.
func (c *Client) DeleteGroup(ctx context.Context, name string) error {
	address, err := c.group(name, "")
	if err != nil {
		return err
	}
	_, err = c.call(ctx, http.MethodDelete, address, nil)
	return err
}

// Assign puts the machines that refs name (see [Client.GetMachine]) into a
// group, out of the ones that they were in: all of them, or none. With remove it
// takes out those that are in that group. It returns how many changed their group.
func (c *Client) Assign(ctx context.Context, group string, refs []string, remove bool) (changed int, err error) {
	address, err := c.group(group, "/machines")
	if err != nil {
		return 0, err
	}
	method := http.MethodPost
	if remove {
		method = http.MethodDelete
	}
	body, err := json.Marshal(map[string][]string{"machines": refs})
	if err != nil {
		return 0, err
	}
	data, err := c.call(ctx, method, address, body)
	if err != nil {
		return 0, err
	}
	var answer struct{ Changed int }
	err = decode(data, &answer)
	return answer.Changed, err
}
