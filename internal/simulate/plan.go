package simulate

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
)

// Domain is what the names of a plan's machines end in (RFC 2606, section 2:
// nobody has it).
const Domain = ".sim.example"

// Plan is a fleet whose machines have names, keys, systems and answers that
// follow from the seed alone: the same plan is the same fleet, anywhere and in
// every release. First come the machines of [Roles], which are always there,
// then as many others as are wanted. All methods are pure but Answer, which
// takes its time.
type Plan struct {
	Seed     uint64
	Machines int // besides those of Roles
	OS       Mix
	Offline  Share // of the other machines: never connect
	Fail     Share // of the orders to the other machines: end Failed
	Silent   Share // of the orders to the other machines: are taken up and never answered
	Latency  Span  // of the answers of the other machines
}

// Role is a machine whose name says what it does with every order.
type Role struct {
	Name string // without [Domain]; two roles may have the same
	Does string // a sentence for people
	System
	away   bool
	unread bool
	begins bool          // says InProgress first
	after  time.Duration // until it answers
	state  cordon.ReportState
	reason string
}

// slow is how long the role "slow" takes: long enough to see InProgress.
const slow = 3 * time.Second

// Roles are the machines that every plan has.
var Roles = []Role{
	{Name: "succeeds", System: windows[0], Does: "Succeeded at once", state: cordon.ReportSucceeded},
	{Name: "fails", System: windows[0], Does: "Failed at once", state: cordon.ReportFailed, reason: "this machine always fails"},
	{Name: "slow", System: windows[0], Does: "InProgress at once, Succeeded 3 seconds later", begins: true, after: slow, state: cordon.ReportSucceeded},
	{Name: "stuck", System: windows[0], Does: "InProgress at once and for good; TimeOut when its time is over", begins: true},
	{Name: "silent", System: windows[0], Does: "takes the order and never answers, a cancellation neither: Pending, then TimeOut"},
	{Name: "waits", System: windows[0], Does: "has the order and does not begin: Pending; Cancelled a moment after it is asked to, else TimeOut", unread: true},
	{Name: "offline", System: windows[0], Does: "never connects: Pending; Cancelled as soon as it is asked to, else TimeOut", away: true},
	{Name: "linux", System: linux[0], Does: "Succeeded at once", state: cordon.ReportSucceeded},
	{Name: "macos", System: macos[0], Does: "is refused: 400 OsPlatformNotSupported", state: cordon.ReportSucceeded},
	{Name: "outdated", System: System{"Windows10", "1703", 15063}, Does: "is refused: 400 ClientVersionNotSupported", state: cordon.ReportSucceeded},
	{Name: "twin", System: windows[0], Does: "two machines have this name: 400 by name, Succeeded by id", state: cordon.ReportSucceeded},
	{Name: "twin", System: windows[1], Does: "the other one", state: cordon.ReportSucceeded},
}

// System is an operating system in Defender's spelling.
type System struct {
	Platform, Version string
	Build             int64 // 0: has none
}

// The systems of each kind, the usual one first.
var (
	windows = []System{{"Windows11", "23H2", 22631}, {"Windows10", "22H2", 19045}, {"WindowsServer2022", "21H2", 20348}}
	linux   = []System{{"Ubuntu", "22.04", 0}, {"Debian", "12", 0}, {"RedHatEnterpriseLinux", "9.4", 0}}
	macos   = []System{{"macOS", "14.5", 0}}

	systems = map[string][]System{"windows": windows, "linux": linux, "macos": macos}
)

// firstBuild is that of Windows 10 1709, the first on which Defender restricts.
const firstBuild = 16299

// Supports is [cordon.Facts.Supports] in a world in which there are agents for
// Windows: they restrict from Windows 10 1709 on, as Defender's do.
func Supports(f cordon.Facts, t cordon.ActionType) error {
	asked := f
	if slices.Contains([]string{"Windows10", "Windows11", "WindowsServer2019", "WindowsServer2022"}, f.OSPlatform) {
		asked.OSPlatform = "Linux"
	}
	if asked.Supports(t) != nil {
		return f.Supports(t)
	}
	if f.OSBuild != 0 && f.OSBuild < firstBuild && t == cordon.RestrictCodeExecution {
		return cordon.Errorf(cordon.Invalid, cordon.CodeVersionUnsupport, "%s is supported on client version 1709 and above.", t)
	}
	return nil
}

// Len is the number of all machines.
func (p Plan) Len() int { return len(Roles) + p.Machines }

// Key is the key of a machine. Whoever knows the seed knows it too.
func (p Plan) Key(number int) ed25519.PrivateKey {
	seed := p.sum("key of a role", uint64(number))
	if number >= len(Roles) { // by a number of their own, so that a new role changes nothing for them
		seed = p.sum("key", uint64(number-len(Roles)))
	}
	return ed25519.NewKeyFromSeed(seed[:])
}

// Facts returns what each machine says of itself, for version agentVersion of it.
func (p Plan) Facts(agentVersion string) func(number int) cordon.Facts {
	kinds := p.kinds()
	return func(number int) cordon.Facts {
		var name string
		var system System
		if number < len(Roles) {
			name, system = Roles[number].Name, Roles[number].System
		} else {
			i := number - len(Roles)
			kind := kinds[i]
			name = fmt.Sprintf("%s-%04d", kind, i+1)
			system = systems[kind][p.draw("system", uint64(i))%uint64(len(systems[kind]))]
		}
		ip := fmt.Sprintf("10.%d.%d.%d", 64+number>>16&63, number>>8&255, number&255)
		return cordon.Facts{
			DNSName: name + Domain, OSPlatform: system.Platform, OSVersion: system.Version, OSBuild: system.Build,
			Processor: "x64", Architecture: "64-bit", AgentVersion: agentVersion, BootID: fmt.Sprintf("%x", p.sum("boot", uint64(number)))[:32], LastIP: ip,
			Interfaces: []cordon.Interface{{IP: ip, MAC: fmt.Sprintf("0200%08X", number), Type: "Ethernet", Status: "Up"}},
		}
	}
}

// kinds returns the kind of system of each machine that has no role: as many of
// each as the weights say, rounded, in an order that the seed shuffles.
func (p Plan) kinds() []string {
	names := slices.Sorted(maps.Keys(systems))
	var total float64
	for _, name := range names { // in order: sums of fractions depend on it
		total += p.OS[name]
	}
	left := make(map[string]float64)
	var kinds []string
	for _, name := range names {
		exact := float64(p.Machines) * p.OS[name] / total
		for range int(exact) {
			kinds = append(kinds, name)
		}
		left[name] = exact - float64(int(exact))
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(left[b], left[a]) })
	for i := 0; len(kinds) < p.Machines; i++ { // largest remainders
		kinds = append(kinds, names[i])
	}
	shuffled := make([]string, len(kinds))
	for i, place := range p.shuffle("kind") {
		shuffled[place] = kinds[i]
	}
	return shuffled
}

// Away returns which machines never connect.
func (p Plan) Away() func(number int) bool {
	places := p.shuffle("offline")
	away := int(math.Round(float64(p.Machines) * float64(p.Offline)))
	return func(number int) bool {
		if number < len(Roles) {
			return Roles[number].away
		}
		return places[number-len(Roles)] < away
	}
}

// shuffle returns a place for each machine that has no role.
func (p Plan) shuffle(what string) []int {
	order := make([]int, p.Machines)
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(p.draw(what, uint64(a)), p.draw(what, uint64(b))), cmp.Compare(a, b))
	})
	places := make([]int, p.Machines)
	for place, i := range order {
		places[i] = place
	}
	return places
}

// noticeable is the time from which on a machine says that it has begun.
const noticeable = time.Second

// Answer is a [Config.Answer]: what a machine does with an order follows from
// its number and the order's generation, so that the first order to a machine is
// always answered alike, and the second.
func (p Plan) Answer(ctx context.Context, t Task) (cordon.ReportState, string) {
	r := p.role(t.Number, t.Generation)
	switch {
	case r.unread:
		return Unread, ""
	case r.begins:
		t.Begun()
	}
	pause := time.NewTimer(r.after)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
	}
	return r.state, r.reason
}

// role is what a machine is for one order.
func (p Plan) role(number int, generation uint64) Role {
	if number < len(Roles) {
		return Roles[number]
	}
	machine := uint64(number - len(Roles))
	after := p.Latency.From
	if spread := uint64(p.Latency.To - p.Latency.From); spread > 0 {
		after += time.Duration(p.draw("latency", machine, generation) % (spread + 1))
	}
	r := Role{begins: after >= noticeable, after: after, state: cordon.ReportSucceeded}
	switch chance := Share(p.draw("outcome", machine, generation)>>11) / (1 << 53); {
	case chance < p.Fail:
		r.state, r.reason = cordon.ReportFailed, "one of those that were to fail"
	case chance < p.Fail+p.Silent:
		r.state = ""
	}
	return r
}

// draw is a number that follows from the seed and what it is for.
func (p Plan) draw(what string, parts ...uint64) uint64 {
	sum := p.sum(what, parts...)
	return binary.BigEndian.Uint64(sum[:])
}

func (p Plan) sum(what string, parts ...uint64) [sha256.Size]byte {
	b := binary.BigEndian.AppendUint64([]byte("cordon simulate\x00"+what+"\x00"), p.Seed)
	for _, part := range parts {
		b = binary.BigEndian.AppendUint64(b, part)
	}
	return sha256.Sum256(b)
}

// Count says in words how many machines there are of each kind of system.
func (p Plan) Count() string {
	n := make(map[string]int)
	for _, kind := range p.kinds() {
		n[kind]++
	}
	var parts []string
	for _, kind := range []string{"windows", "linux", "macos"} {
		if n[kind] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[kind], kind))
		}
	}
	return strings.Join(parts, ", ")
}
