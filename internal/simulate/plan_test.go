package simulate_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/simulate"
)

// described is all of a plan that can be seen from outside.
type described struct {
	ID       cordon.MachineID
	Facts    cordon.Facts
	Away     bool
	Answers  [3]cordon.ReportState // to the first orders
	Reasons  [3]string
	Progress [3]bool
}

// describe asks a plan for everything. The plan's answers take no time.
func describe(ctx context.Context, p simulate.Plan) []described {
	ctx, cancel := context.WithCancel(ctx)
	cancel() // what takes its time ends at once, and says the same
	facts, away := p.Facts("1.2.3"), p.Away()
	all := make([]described, p.Len())
	for i := range all {
		d := described{ID: cordon.IDOfKey(p.Key(i).Public().(ed25519.PublicKey)), Facts: facts(i), Away: away(i)}
		for g := range d.Answers {
			d.Answers[g], d.Reasons[g] = p.Answer(ctx, simulate.Task{
				Order: cordon.Order{Generation: uint64(g + 1)}, Number: i, Begun: func() { d.Progress[g] = true },
			})
		}
		all[i] = d
	}
	return all
}

func plans(most int) *rapid.Generator[simulate.Plan] {
	return rapid.Custom(func(t *rapid.T) simulate.Plan {
		weight := rapid.Float64Range(0.01, 100)
		fail := rapid.Float64Range(0, 1).Draw(t, "fail")
		from := time.Duration(rapid.IntRange(0, 2000).Draw(t, "from")) * time.Millisecond
		return simulate.Plan{
			Seed: rapid.Uint64().Draw(t, "seed"), Machines: rapid.IntRange(0, most).Draw(t, "machines"),
			OS:      simulate.Mix{"windows": weight.Draw(t, "windows"), "linux": weight.Draw(t, "linux"), "macos": weight.Draw(t, "macos")},
			Offline: simulate.Share(rapid.Float64Range(0, 1).Draw(t, "offline")), Fail: simulate.Share(fail),
			Silent:  simulate.Share(rapid.Float64Range(0, 1-fail).Draw(t, "silent")),
			Latency: simulate.Span{From: from, To: from + time.Duration(rapid.IntRange(0, 2000).Draw(t, "more"))*time.Millisecond},
		}
	})
}

func TestPlanFollowsFromItsSeed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := plans(40).Draw(rt, "plan")
		first := describe(t.Context(), p)
		if d := cmp.Diff(first, describe(t.Context(), p)); d != "" {
			rt.Fatalf("the same plan differs:\n%s", d)
		}
		other := p
		other.Seed++
		second := describe(t.Context(), other)
		ids := make(map[cordon.MachineID]bool)
		names := make(map[string]int)
		for i := range first {
			if ids[first[i].ID] || first[i].ID == second[i].ID {
				rt.Fatalf("machine %d has the id of another one", i)
			}
			ids[first[i].ID] = true
			names[first[i].Facts.DNSName]++
		}
		if len(names) != len(first)-1 || names["twin"+simulate.Domain] != 2 {
			rt.Fatalf("%d machines have %d names", len(first), len(names))
		}
		more := p
		more.Machines++
		if !p.Key(p.Len() - 1).Equal(more.Key(p.Len() - 1)) {
			rt.Fatal("one machine more, and the others are not what they were")
		}
	})
}

// As many machines as were asked for, to the machine; and as many orders, as
// far as chance allows.
func TestPlanKeepsItsShares(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := plans(300).Draw(rt, "plan")
		all := describe(t.Context(), p)[len(simulate.Roles):]
		n := map[string]float64{}
		for _, d := range all {
			kind, _, _ := strings.Cut(d.Facts.DNSName, "-")
			n[kind]++
			if d.Away {
				n["away"]++
			}
			for _, a := range d.Answers {
				n[string(a)]++
			}
		}
		total := p.OS["windows"] + p.OS["linux"] + p.OS["macos"]
		for kind, weight := range p.OS {
			if want := float64(p.Machines) * weight / total; math.Abs(n[kind]-want) >= 1 {
				rt.Errorf("%s: %v machines of %d with weights %v", kind, n[kind], p.Machines, p.OS)
			}
		}
		if want := float64(p.Machines) * float64(p.Offline); math.Abs(n["away"]-want) > 0.5 {
			rt.Errorf("%v machines are away, want %v", n["away"], want)
		}
		orders := 3 * float64(p.Machines)
		for state, share := range map[string]simulate.Share{"Failed": p.Fail, "": p.Silent} {
			want := orders * float64(share)
			if tolerance := 6*math.Sqrt(want*(1-float64(share))) + 3; math.Abs(n[state]-want) > tolerance {
				rt.Errorf("%v of %v orders end %q, want %v", n[state], orders, state, want)
			}
		}
	})
}

func TestPlanTakesItsTime(t *testing.T) {
	p := simulate.Plan{Machines: 1, OS: simulate.Mix{"linux": 1}, Latency: simulate.Span{From: 20 * time.Millisecond, To: 30 * time.Millisecond}}
	began := time.Now()
	state, _ := p.Answer(t.Context(), simulate.Task{Number: p.Len() - 1, Begun: func() { t.Error("20 ms are nothing to speak of") }})
	if took := time.Since(began); took < 20*time.Millisecond || state != cordon.ReportSucceeded {
		t.Errorf("%q after %s", state, took)
	}
	p.Latency = simulate.Span{From: time.Second, To: time.Hour}
	ctx, cancel := context.WithCancel(t.Context())
	p.Answer(ctx, simulate.Task{Number: p.Len() - 1, Begun: cancel}) // says so, and ends with the fleet
}

// What a seed means is a promise: those who use one have its ids in their tests.
func TestSeedOne(t *testing.T) {
	p := simulate.Plan{Seed: 1, Machines: 4, OS: simulate.Mix{"windows": 70, "linux": 20, "macos": 10}, Offline: 0.25, Fail: 0.3, Silent: 0.2}
	var got []string
	for _, d := range describe(t.Context(), p)[len(simulate.Roles)-1:] {
		got = append(got, strings.Join([]string{string(d.ID), d.Facts.DNSName, d.Facts.OSPlatform, map[bool]string{true: "away", false: "here"}[d.Away],
			string(d.Answers[0]), string(d.Answers[1]), string(d.Answers[2])}, " "))
	}
	want := []string{
		"91f45d14cf7b242f4ca895323fe6ecbb410b65c6 twin.sim.example Windows10 here Succeeded Succeeded Succeeded",
		"44c7ada9c6ec5633368086d4d97c128d6bf38895 linux-0001.sim.example Debian here   Failed",
		"d76ff05b6f75c0d48ba9379c7430d4b70c5a41f4 windows-0002.sim.example WindowsServer2022 here Succeeded Succeeded Succeeded",
		"1516c3a395c43bded99f4829ceec1715f371a689 windows-0003.sim.example Windows10 here Succeeded Failed Succeeded",
		"d32f60660de1d7923af2da18ff99b99fb18474c4 windows-0004.sim.example Windows11 away Failed Succeeded Succeeded",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("seed 1 means something else now (-want +got):\n%s", d)
	}
}

func TestSupports(t *testing.T) {
	restrict, unrestrict := cordon.RestrictCodeExecution, cordon.UnrestrictCodeExecution
	for _, c := range []struct {
		platform string
		build    int64
		action   cordon.ActionType
		want     string
	}{
		{"Windows11", 22631, restrict, ""},
		{"Windows11", 0, restrict, ""},
		{"Windows10", 16299, restrict, ""},
		{"Windows10", 16298, restrict, "RestrictCodeExecution is supported on client version 1709 and above."},
		{"Windows10", 15063, unrestrict, ""}, // whatever was restricted can be released
		{"WindowsServer2022", 20348, restrict, ""},
		{"Windows8Blue", 9600, restrict, "OS Platform Windows8Blue is not supported for this action."},
		{"Windows11", 22631, cordon.Isolate, "OS Platform Windows11 is not supported for this action."},
		{"macOS", 0, restrict, "OS Platform macOS is not supported for this action."},
		{"Ubuntu", 0, restrict, ""},
	} {
		err := simulate.Supports(cordon.Facts{OSPlatform: c.platform, OSBuild: c.build, AgentVersion: "1.2.3"}, c.action)
		if (err == nil) != (c.want == "") || err != nil && err.Error() != c.want {
			t.Errorf("%s on %s %d: %v, want %q", c.action, c.platform, c.build, err, c.want)
		}
	}
}

func TestTexts(t *testing.T) {
	for text, want := range map[string]string{
		"windows=70,linux=20,macos=10": `{"linux":20,"macos":10,"windows":70}`, "linux=1": `{"linux":1}`, "windows=0.5, macos=0": `{"macos":0,"windows":0.5}`,
		"": "", "windows": "", "windows=": "", "windows=x": "", "amiga=1": "", "windows=-1": "", "windows=NaN": "", "windows=Inf": "", "windows=1,windows=2": "", "windows=0": "", "windows=1,": "",
	} {
		checkText(t, text, want, new(simulate.Mix))
	}
	for text, want := range map[string]string{
		"0": "0", "0%": "0", "10%": "0.1", "0.1": "0.1", "100%": "1", "1": "1",
		"": "", "%": "", "10": "", "101%": "", "-1%": "", "NaN": "", "x": "",
	} {
		checkText(t, text, want, new(simulate.Share))
	}
	for text, want := range map[string]string{
		"200ms": `{"From":200000000,"To":200000000}`, "0s-1s": `{"From":0,"To":1000000000}`, "0": `{"From":0,"To":0}`,
		"": "", "5": "", "2s-1s": "", "-1s": "", "1s-": "", "1s-2s-3s": "", "2562047h": "",
	} {
		checkText(t, text, want, new(simulate.Span))
	}
}

// checkText reads text and compares what came of it as JSON; "" is an error.
func checkText(t *testing.T, text, want string, v interface{ UnmarshalText([]byte) error }) {
	t.Helper()
	err := v.UnmarshalText([]byte(text))
	if want == "" {
		if err == nil {
			t.Errorf("%T %q is taken", v, text)
		}
		return
	}
	var plain any = v
	switch v := v.(type) {
	case *simulate.Mix:
		plain = map[string]float64(*v)
	case *simulate.Share:
		plain = float64(*v)
	case *simulate.Span:
		plain = struct{ From, To time.Duration }(*v)
	}
	got, _ := json.Marshal(plain)
	if err != nil || string(got) != want {
		t.Errorf("%T %q: %s, %v; want %s", v, text, got, err, want)
	}
}

func TestRolesAreNamed(t *testing.T) {
	for _, r := range simulate.Roles {
		if r.Does == "" || r.Name != strings.ToLower(r.Name) || r.Platform == "" {
			t.Errorf("%+v", r)
		}
	}
}
