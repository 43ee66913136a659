package seal

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
)

func testRelease() cordon.Release {
	return cordon.Release{Machine: cordon.MachineID(strings.Repeat("a1", 20)), Generation: 3, NotBefore: time.Unix(1, 0).UTC(), Expires: time.Unix(1<<32-1, 0).UTC(), Nonce: [4]byte{1, 2, 3, 4}}
}

func TestReleaseCode(t *testing.T) {
	pub, priv := newKey(t)
	stranger, _ := newKey(t)
	r := testRelease()
	jws, err := Release(r, priv)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenRelease(jws+"\n", pub); err != nil || got != r || !IsRelease(jws) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := OpenRelease(jws, stranger); err == nil {
		t.Error("it verifies with another key")
	}
	if _, err := OpenOrder(jws, pub); err == nil {
		t.Error("it passes for an order")
	}
	lines, err := ReleaseCode(jws)
	if err != nil || len(lines) != CodeLines || len(strings.ReplaceAll(strings.Join(lines, ""), " ", "")) != 144 {
		t.Fatalf("%q, %v", lines, err)
	}
	code := strings.Join(lines, "\n")
	for name, typed := range map[string]string{
		"as shown": code, "lower case": strings.ToLower(code), "dashes": strings.ReplaceAll(code, " ", "-"), "in one": strings.NewReplacer("\n", "", " ", "").Replace(code),
		"letters for digits": strings.NewReplacer("0", "o", "1", "l").Replace(code),
	} {
		if back, err := ReleaseOfCode(typed, r.Machine); err != nil || back != jws {
			t.Errorf("%s: %v\n%s\n%s", name, err, back, jws)
		}
	}
	if _, err := ReleaseOfCode(code, cordon.MachineID(strings.Repeat("b2", 20))); err == nil || !strings.Contains(err.Error(), "begins with a1a1a1a1") {
		t.Errorf("another machine: %v", err)
	}
	// A machine whose id begins in the same way: the signature tells.
	near := cordon.MachineID(strings.Repeat("a1", 19) + "a2")
	if back, err := ReleaseOfCode(code, near); err != nil {
		t.Error(err)
	} else if _, err := OpenRelease(back, pub); err == nil {
		t.Error("it verifies for a machine that it was not signed for")
	}
	swapped := strings.Join([]string{lines[1], lines[0], lines[2], lines[3], lines[4], lines[5]}, "\n")
	for name, typed := range map[string]string{"": "", "short": lines[0], "lines swapped": swapped, "long": code + "00", "no code": "ü" + code[1:], "endless": strings.Repeat("0", 5000)} {
		if _, err := ReleaseOfCode(typed, r.Machine); cordon.CodeOf(err) != cordon.CodeUnverifiedEvidence {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every wrong character and every two swapped are seen in their line, before anything is verified.
func TestCodeLineChecks(t *testing.T) {
	_, priv := newKey(t)
	jws, err := Release(testRelease(), priv)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := ReleaseCode(jws)
	if err != nil {
		t.Fatal(err)
	}
	for place, line := range lines {
		line = strings.ReplaceAll(line, " ", "")
		if err := CheckCodeLine(place, line); err != nil {
			t.Fatal(err)
		}
		for i := range line {
			for _, c := range codeAlphabet {
				wrong := line[:i] + string(c) + line[i+1:]
				if err := CheckCodeLine(place, wrong); (err == nil) != (wrong == line) {
					t.Fatalf("line %d: %q for %q: %v", place, wrong, line, err)
				}
			}
			for j := range i {
				b := []byte(line)
				b[i], b[j] = b[j], b[i]
				if err := CheckCodeLine(place, string(b)); (err == nil) != (string(b) == line) {
					t.Fatalf("line %d: %q for %q: %v", place, b, line, err)
				}
			}
		}
	}
}

func TestReleaseCodeRoundTrip(t *testing.T) {
	_, priv := newKey(t)
	rapid.Check(t, func(t *rapid.T) {
		r := testRelease()
		r.Machine = cordon.MachineID(rapid.StringMatching(`[0-9a-f]{40}`).Draw(t, "machine"))
		r.Generation = rapid.Uint64Range(0, 1<<48-1).Draw(t, "generation")
		jws, err := Release(r, priv)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := ReleaseCode(jws)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ReleaseOfCode(strings.Join(lines, "\r\n"), r.Machine); err != nil || back != jws {
			t.Fatalf("%s, %v", back, err)
		}
	})
}

func FuzzReleaseOfCode(f *testing.F) {
	_, priv := newKey(f)
	jws, err := Release(testRelease(), priv)
	if err != nil {
		f.Fatal(err)
	}
	lines, err := ReleaseCode(jws)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(strings.Join(lines, "\n"))
	f.Add("0000 ıſ")
	f.Fuzz(func(t *testing.T, code string) {
		back, err := ReleaseOfCode(code, testRelease().Machine)
		if err != nil {
			return
		}
		if again, err := ReleaseCode(back); err != nil || len(again) != CodeLines {
			t.Errorf("%q became %q, %v", code, back, err)
		}
	})
}
