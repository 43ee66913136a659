package cordonapi

import (
	"net/http"
	"time"

	"github.com/cordon-project/cordon"
)

// TrustRequest names a rule: a content, and for whom it holds.
type TrustRequest struct {
	SHA256  string            `json:"sha256"`
	Scope   cordon.TrustScope `json:"scope"`   // "all", or empty where Machine or Group names one
	Machine string            `json:"machine"` // id, device id or DNS name
	Group   string            `json:"group"`   // name
	Comment string            `json:"comment"` // required where a rule is made
}

// TrustAnswer says what a request did.
type TrustAnswer struct {
	Changed bool `json:"changed"` // false: it was so already
}

// TrustList is all rules.
type TrustList struct {
	Value []TrustRule `json:"value"`
}

// TrustRule is a [cordon.TrustRule] on the wire.
type TrustRule struct {
	SHA256  cordon.Digest     `json:"sha256"`
	Scope   cordon.TrustScope `json:"scope"`
	Group   string            `json:"group,omitempty"` // name of the one whose scope it is
	Comment string            `json:"comment"`
	Actor   string            `json:"actor"`
	At      time.Time         `json:"at"`
}

func (a *API) trustList(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	rules, err := a.Service.TrustRules(r.Context(), c)
	if err != nil {
		return err
	}
	groups, err := a.Service.Groups(r.Context(), c)
	if err != nil {
		return err
	}
	names := make(map[cordon.TrustScope]string, len(groups))
	for _, g := range groups {
		names[cordon.TrustGroup(g.ID)] = g.Name
	}
	list := TrustList{make([]TrustRule, len(rules))}
	for i, rule := range rules {
		list.Value[i] = TrustRule{rule.Digest, rule.Scope, names[rule.Scope], rule.Comment, rule.Actor, rule.At}
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

func (a *API) trustAdd(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	return a.trust(w, r, c, false)
}

func (a *API) trustRemove(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	return a.trust(w, r, c, true)
}

func (a *API) trust(w http.ResponseWriter, r *http.Request, c cordon.Caller, remove bool) error {
	var req TrustRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	digest, ok := cordon.ParseDigest(req.SHA256)
	if !ok {
		return cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, "Parameter sha256 must be 64 hex digits")
	}
	rule := cordon.TrustRule{Digest: digest, Scope: req.Scope, Comment: req.Comment}
	switch {
	case req.Machine != "" && req.Scope == "" && req.Group == "":
		m, err := a.Service.Find(r.Context(), c, cordon.ChangeTrust, req.Machine)
		if err != nil {
			return err
		}
		rule.Scope = cordon.TrustMachine(m.ID)
	case req.Group != "" && req.Scope == "" && req.Machine == "":
		g, err := a.Service.FindGroup(r.Context(), c, cordon.ChangeTrust, req.Group)
		if err != nil {
			return err
		}
		rule.Scope = cordon.TrustGroup(g.ID)
	case req.Scope == "" || req.Machine != "" || req.Group != "":
		return cordon.Errorf(cordon.Invalid, cordon.CodeMissingParameter, "One of the parameters scope, machine and group is needed, and no more than one")
	}
	changed, err := a.Service.Trust(r.Context(), c, rule, remove)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, TrustAnswer{changed})
	return nil
}
