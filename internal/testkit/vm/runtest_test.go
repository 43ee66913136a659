package vm

import "testing"

func TestPattern(t *testing.T) {
	if p := pattern("TestA/6.12"); p != `^TestA$/^6\.12$` {
		t.Error(p)
	}
}
