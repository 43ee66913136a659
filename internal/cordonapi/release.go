package cordonapi

import (
	"net/http"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
)

// ReleaseRequest asks for a break-glass.
type ReleaseRequest struct {
	Seconds int64  `json:"seconds"` // how long it is valid
	Comment string `json:"comment"`
}

// Release is a break-glass, to be carried as a file or typed.
type Release struct {
	ID         cordon.ActionID  `json:"id"`
	Machine    cordon.MachineID `json:"machine"`
	Generation uint64           `json:"generation"` // it frees from orders up to this one
	NotBefore  time.Time        `json:"notBefore"`
	Expires    time.Time        `json:"expires"`
	Release    string           `json:"release"` // compact JWS
	Code       []string         `json:"code"`    // lines
}

func (a *API) breakGlass(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	m, err := a.Service.Find(r.Context(), c, cordon.SignRelease, r.PathValue("machine"))
	if err != nil {
		return err
	}
	var req ReleaseRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	// Compared before it is multiplied, which could overflow.
	valid := time.Duration(min(max(req.Seconds, 0), int64(2*cordon.MaxRelease/time.Second))) * time.Second
	release, jws, err := a.Service.Release(r.Context(), c, m, valid, req.Comment)
	if err != nil {
		return err
	}
	code, err := seal.ReleaseCode(jws)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusCreated, Release{
		ID: release.ID(), Machine: m.ID, Generation: release.Generation, NotBefore: release.NotBefore, Expires: release.Expires, Release: jws, Code: code,
	})
	return nil
}

func (a *API) release(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	entries, err := a.Service.ReleaseLog(r.Context(), c, cordon.ActionID(strings.ToLower(r.PathValue("release"))))
	if err != nil {
		return err
	}
	return a.proof(w, r, c, entries[0].Machine, entries)
}
