package cordonapi

import (
	"net/http"
	"time"

	"github.com/cordon-project/cordon"
)

// Group is a [cordon.GroupInfo] on the wire.
type Group struct {
	ID       int64     `json:"id"` // the rbacGroupId of its machines
	Name     string    `json:"name"`
	Created  time.Time `json:"created"`
	Machines int       `json:"machines"` // how many are in it
	Trusted  int       `json:"trusted"`  // how many files are trusted there
}

func groupOf(g cordon.GroupInfo) Group {
	return Group{g.ID, g.Name, g.Created, g.Machines, g.Trusted}
}

// GroupList is all groups.
type GroupList struct {
	Value []Group `json:"value"`
}

// NewGroup is what a new group is to be, or what a group is to be from now on.
type NewGroup struct {
	Name string `json:"name"`
}

// GroupMachines names the machines that go into a group, or out of it.
type GroupMachines struct {
	Machines []string `json:"machines"` // ids, device ids or DNS names
}

// GroupAnswer says what a request did.
type GroupAnswer struct {
	Changed int `json:"changed"` // how many machines are in another group than before
}

func (a *API) listGroups(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	groups, err := a.Service.Groups(r.Context(), c)
	if err != nil {
		return err
	}
	list := GroupList{make([]Group, len(groups))}
	for i, g := range groups {
		list.Value[i] = groupOf(g)
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

func (a *API) createGroup(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	var req NewGroup
	if err := readJSON(r, &req); err != nil {
		return err
	}
	g, err := a.Service.CreateGroup(r.Context(), c, req.Name)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, groupOf(g))
	return nil
}

func (a *API) showGroup(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	g, err := a.Service.FindGroup(r.Context(), c, cordon.ReadMachines, r.PathValue("group"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, groupOf(g))
	return nil
}

func (a *API) renameGroup(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	var req NewGroup
	if err := readJSON(r, &req); err != nil {
		return err
	}
	g, err := a.Service.RenameGroup(r.Context(), c, r.PathValue("group"), req.Name)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, groupOf(g))
	return nil
}

func (a *API) deleteGroup(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	if err := a.Service.DeleteGroup(r.Context(), c, r.PathValue("group")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// assign returns what puts machines into a group, or takes them out.
func assign(remove bool) func(*API, http.ResponseWriter, *http.Request, cordon.Caller) error {
	return func(a *API, w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
		var req GroupMachines
		if err := readJSON(r, &req); err != nil {
			return err
		}
		if len(req.Machines) == 0 {
			return cordon.Errorf(cordon.Invalid, cordon.CodeMissingParameter, "The parameter machines is needed, with at least one machine")
		}
		changed, err := a.Service.Assign(r.Context(), c, r.PathValue("group"), req.Machines, remove)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, GroupAnswer{changed})
		return nil
	}
}
