package cordonapi

import (
	"net/http"

	"github.com/cordon-project/cordon"
)

// Findings is what a machine told of files that are not trusted.
type Findings struct {
	cordon.Findings
	Others uint64 `json:"others"` // the part of the total that is in no file's count
}

func (a *API) blocked(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	m, err := a.Service.Find(r.Context(), c, cordon.ReadMachines, r.PathValue("machine"))
	if err != nil {
		return err
	}
	told, err := a.Service.Findings(r.Context(), c, m, cordon.Blocked)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, Findings{told, told.Others()})
	return nil
}

// Preview is what a restriction would hit on a machine, as it told last.
type Preview struct {
	Running Findings `json:"running"` // what runs now
	Audited Findings `json:"audited"` // what was started in mode audit
}

func (a *API) preview(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	m, err := a.Service.Find(r.Context(), c, cordon.ReadMachines, r.PathValue("machine"))
	if err != nil {
		return err
	}
	p, err := a.Service.Preview(r.Context(), c, m)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, Preview{Findings{p.Running, p.Running.Others()}, Findings{p.Audited, p.Audited.Others()}})
	return nil
}
