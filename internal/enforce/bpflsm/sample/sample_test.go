package sample

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
)

// Names in events are chosen by whoever made the file, and need not end.
func TestRefusal(t *testing.T) {
	ev := event{PID: 5, Hook: 3, Reason: 1, Mode: 2}
	if r := ev.refusal(); r.Path != "(no file)" || r.PID != 5 || r.Mode != cordon.ModeEnforce || r.Reason != "it is not in the trust set, mapped as code" {
		t.Errorf("got %+v", r)
	}
	for i := range ev.Path {
		ev.Path[i] = '\x1b'
	}
	ev.Hook, ev.Reason = 200, 200
	if r := parse(t, ev); len(r.Path) != len(ev.Path) {
		t.Errorf("got %+v", r)
	}
}

func parse(t *testing.T, ev event) enforce.Refusal {
	t.Helper()
	var record bytes.Buffer
	if err := binary.Write(&record, binary.LittleEndian, ev); err != nil {
		t.Fatal(err)
	}
	r, at, err := Parse(record.Bytes())
	if err != nil || at != int64(ev.At) {
		t.Errorf("at %d, %v", at, err)
	}
	if _, _, err := Parse(record.Bytes()[:record.Len()-1]); err == nil {
		t.Error("a part of one was read")
	}
	return r
}
