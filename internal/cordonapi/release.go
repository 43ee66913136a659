package cordonapi

import (
	"encoding/json"
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
	if err := readJSON(w, r, &req); err != nil {
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
	entries, err := a.Service.ReleaseLog(r.Context(), c, cordon.ActionID(strings.ToLower(r.PathValue("id"))))
	if err != nil {
		return err
	}
	return a.proof(w, r, c, entries[0].Machine, entries)
}

// maxBody is the longest request body, in bytes.
const maxBody = 64 << 10

func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil && d.More() {
		err = cordon.Errorf(cordon.Invalid, "", "there is more than one value")
	}
	if err != nil {
		return &cordon.Error{Kind: cordon.Invalid, Code: cordon.CodeInvalidBody, Message: "The request body cannot be read: " + cordon.Plain(err.Error())}
	}
	return nil
}
