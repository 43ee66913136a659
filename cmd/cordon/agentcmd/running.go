package agentcmd

import (
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cordon-project/cordon"
)

// initDescriptors has the open files of the first process.
const initDescriptors = "/proc/1/fd"

// keepRunning returns what adds to every set what an upgrade has replaced and is still
// started. That is the program of Cordon that was in the first one, which this agent
// is: until it is restarted, who tells people of refusals is started from it. And it is
// the programs that the first process has open: systemd starts each service through one
// that it opened when it began itself, so that nothing could be started from when its
// package is unpacked until it is told to begin anew.
func keepRunning(descriptors string) func(*cordon.TrustSet) *cordon.TrustSet {
	var running []cordon.TrustEntry
	var before *cordon.TrustSet
	return func(set *cordon.TrustSet) *cordon.TrustSet {
		if running == nil {
			for e := range set.Entries() {
				if e.Origin == "cordon" {
					running = append(running, e)
				}
			}
		}
		set = set.With(slices.Concat(running, replaced(descriptors, before))...)
		before = set
		return set
	}
}

// maxReplaced is how large a replaced program may be, in bytes: it is read whole.
const maxReplaced = 64 << 20

// replaced returns what was trusted of the programs that are open and have no name any more.
func replaced(descriptors string, before *cordon.TrustSet) (entries []cordon.TrustEntry) {
	open, err := os.ReadDir(descriptors)
	if err != nil || before == nil {
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
		if err != nil {
			continue
		}
		for e := range before.Entries() {
			if e.Digest == cordon.Digest(h.Sum(nil)) {
				entries = append(entries, e)
			}
		}
	}
	return entries
}
