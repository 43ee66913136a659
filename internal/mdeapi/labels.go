package mdeapi

import (
	"strings"

	"github.com/cordon-project/cordon"
)

// tagChange are the members of a body that adds or removes a tag.
type tagChange struct{ Value, Action *string }

func (t *tagChange) members(more map[string]any) map[string]any {
	members := map[string]any{"Value": &t.Value, "Action": &t.Action}
	for name, into := range more {
		members[name] = into
	}
	return members
}

func (t *tagChange) update() (u cordon.LabelUpdate, err error) {
	switch {
	case t.Value == nil || strings.TrimSpace(*t.Value) == "":
		return u, missing("Value")
	case t.Action == nil || *t.Action == "":
		return u, missing("Action")
	case strings.EqualFold(*t.Action, "Add"):
		u.Add = *t.Value
	case strings.EqualFold(*t.Action, "Remove"):
		u.Remove = *t.Value
	default:
		return u, invalid("Action: %.64q is neither Add nor Remove.", *t.Action)
	}
	return u, nil
}

// changeTags serves POST /api/machines/{machine}/tags.
func (a *api) changeTags(c *call) ([]byte, error) {
	var body tagChange
	return a.label(c, body.members(nil), body.update)
}

// changeTagsOfMany serves POST /api/machines/AddOrRemoveTagForMultipleMachines.
func (a *api) changeTagsOfMany(c *call) ([]byte, error) {
	var body tagChange
	var refs []string
	if err := c.readMembers(body.members(map[string]any{"MachineIds": &refs})); err != nil {
		return nil, err
	}
	u, err := body.update()
	if err != nil {
		return nil, err
	}
	if len(refs) == 0 {
		return nil, missing("MachineIds")
	}
	for _, ref := range refs {
		if err := checkReference(ref); err != nil {
			return nil, err
		}
	}
	changed, err := a.Service.LabelAll(c.Context(), c.caller, refs, u)
	if err != nil {
		return nil, err
	}
	return machine.collection(c, cordon.Query{}, page[machineRow]{rows: rowsOf(changed, a.Now())}), nil
}

// setDeviceValue serves POST /api/machines/{machine}/setDeviceValue.
func (a *api) setDeviceValue(c *call) ([]byte, error) {
	var value *string
	return a.label(c, map[string]any{"DeviceValue": &value}, func() (u cordon.LabelUpdate, err error) {
		if value == nil || *value == "" {
			return u, missing("DeviceValue")
		}
		u.Value, err = deviceValue("DeviceValue", *value)
		return u, err
	})
}

// updateMachine serves PATCH /api/machines/{machine}. The tags that it gets are
// all tags from then on, see ADR 10.
func (a *api) updateMachine(c *call) ([]byte, error) {
	var tags *[]string
	var value *string
	return a.label(c, map[string]any{"machineTags": &tags, "deviceValue": &value}, func() (u cordon.LabelUpdate, err error) {
		if tags == nil && value == nil {
			return u, missing("machineTags or deviceValue")
		}
		u.Tags = tags
		if value != nil {
			u.Value, err = deviceValue("deviceValue", *value)
		}
		return u, err
	})
}

func deviceValue(name, s string) (cordon.DeviceValue, error) {
	if v, ok := cordon.ParseDeviceValue(s); ok {
		return v, nil
	}
	return "", invalid("%s: %.64q is none of Low, Normal, High.", name, s)
}

// label changes the labels of the machine that the path names, as its body says
// once it has been read into members.
func (a *api) label(c *call, members map[string]any, update func() (cordon.LabelUpdate, error)) ([]byte, error) {
	m, err := a.findMachine(c, cordon.LabelMachines)
	if err != nil {
		return nil, err
	}
	if err := c.readMembers(members); err != nil {
		return nil, err
	}
	u, err := update()
	if err != nil {
		return nil, err
	}
	if m, err = a.Service.Label(c.Context(), c.caller, m.ID, u); err != nil {
		return nil, err
	}
	return machine.entity(c, &machineRow{m, a.Now()}), nil
}
