package agentcmd

import (
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cordon-project/cordon"
)

// keepRunning returns what adds to every set the program of Cordon that was in the
// first one. It is what this agent is: an upgrade puts another in its place, and
// until the agent is restarted, who tells people of refusals is started from it.
func keepRunning() func(*cordon.TrustSet) *cordon.TrustSet {
	var running []cordon.TrustEntry
	return func(set *cordon.TrustSet) *cordon.TrustSet {
		if running == nil {
			for e := range set.Entries() {
				if e.Origin == "cordon" {
					running = append(running, e)
				}
			}
		}
		return set.With(running...)
	}
}

// initDescriptors has the open files of the first process.
const initDescriptors = "/proc/1/fd"

// maxReplaced is how large a replaced program may be, in bytes: it is read whole.
const maxReplaced = 64 << 20

// replaced returns the contents of the programs that are open and have no name any
// more. systemd starts each service through one that it opened when it began itself:
// when an upgrade has unpacked another, nothing could be started until systemd is
// told to begin anew, if the old one were not trusted any more.
func replaced(descriptors string) (contents []cordon.Digest) {
	open, err := os.ReadDir(descriptors)
	if err != nil { // there is none, as far as anybody can tell
		return nil
	}
	for _, d := range open {
		path := filepath.Join(descriptors, d.Name())
		if name, err := os.Readlink(path); err != nil || !strings.HasSuffix(name, " (deleted)") {
			continue
		}
		// Not opened before it is known to be a file: what else there is may have a side effect.
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() || st.Mode().Perm()&0o111 == 0 || st.Size() > maxReplaced {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		h := sha256.New()
		_, err = io.Copy(h, io.LimitReader(f, maxReplaced))
		_ = f.Close() // only read
		if err == nil {
			contents = append(contents, cordon.Digest(h.Sum(nil)))
		}
	}
	return contents
}
