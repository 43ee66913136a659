package preview

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cordon-project/cordon"
)

// start runs a copy of sleep with a content of its own until the test ends.
func start(t *testing.T, path, mark string) cordon.Digest {
	t.Helper()
	program, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	program = append(program, mark...)
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it would sleep on
		_ = cmd.Wait()         // it was killed
	})
	return sha256.Sum256(program)
}

func TestScan(t *testing.T) {
	dir := t.TempDir()
	good := start(t, filepath.Join(dir, "good"), "1")
	evil := start(t, filepath.Join(dir, "evil\x1b\n"), "2")
	gone := start(t, filepath.Join(dir, "gone"), "3")
	second := exec.Command(filepath.Join(dir, "evil\x1b\n"), "1000")
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = second.Process.Kill() // it would sleep on
		_ = second.Wait()         // it was killed
	})
	if err := os.Remove(filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	s := &Scanner{Proc: "/proc", Within: func(path string) bool { return filepath.Dir(path) == dir }, Owner: func(path string) string { return "dpkg:" + filepath.Base(path) }}
	set := cordon.NewTrustSet([]cordon.TrustEntry{{Digest: good, Size: -1}}, nil)
	for range 2 { // the second time from the cache
		files, total, err := s.Scan(t.Context(), set)
		if err != nil || total != 3 || len(files) != 2 {
			t.Fatalf("%+v, %d, %v", files, total, err)
		}
		if f := files[0]; f.Path != dir+`/evil\x1b\n` || f.SHA256 != evil.String() || f.Count != 2 || f.Owner != `dpkg:evil\x1b\n` || f.Reason == "" {
			t.Errorf("%+v", f)
		}
		if f := files[1]; f.Path != dir+"/gone (deleted)" || f.SHA256 != gone.String() || f.Count != 1 {
			t.Errorf("%+v", f)
		}
	}
	everything := cordon.NewTrustSet([]cordon.TrustEntry{{Digest: good, Size: -1}, {Digest: evil, Size: -1}, {Digest: gone, Size: -1}}, nil)
	if files, total, err := s.Scan(t.Context(), everything); err != nil || total != 0 || len(files) != 0 {
		t.Errorf("all is trusted, but %+v, %v", files, err)
	}
	// Libraries are told where they are judged.
	s.Within = func(string) bool { return true }
	_, programs, err := s.Scan(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	s.Mapped = true
	if _, all, err := s.Scan(t.Context(), set); err != nil || all <= programs {
		t.Errorf("%d uses with mappings, %d without, %v", all, programs, err)
	}
	if _, _, err := (&Scanner{Proc: dir + "/none"}).Scan(t.Context(), set); err == nil {
		t.Error("scanned without /proc")
	}
}
