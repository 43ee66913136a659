package trust

import (
	"context"
	"crypto/md5"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/fileid"
	"github.com/cordon-project/cordon/internal/trust/rules"
)

// workers is how many files are hashed at once. Two keep a disk and a processor
// busy; more would show on a machine that has other work to do.
const workers = 2

// fact is what is known of a content by the identity of a file.
type fact struct {
	id     cordon.FileID
	sha256 cordon.Digest
	md5    [md5.Size]byte
	hasMD5 bool
}

// measurer finds out what the files of packages contain now.
type measurer struct {
	root  string
	text  bool // program text is code, too
	now   func() time.Time
	pace  func(context.Context) (pause, end func()) // of one worker
	facts map[cordon.FileID]fact                    // of earlier builds
}

// remember adds what is known from a package of the last build that has changed,
// or has to be looked at again: many of its files are still the same.
func (m *measurer) remember(p *pack) {
	for i := range p.files {
		if f := &p.files[i]; f.state == hashed && !f.young {
			m.facts[f.fact.id] = f.fact
		}
	}
}

// job is one content to be hashed, for all the files that share it.
type job struct {
	path  string
	md5   bool
	files []*file
	sum   fileid.Sum
	err   error
}

// measure brings every file up to date. Only those are read whose identity is
// not the one for which the content is known.
func (m *measurer) measure(ctx context.Context, packs []*pack, sum *Summary) error {
	var jobs []*job
	byID := map[cordon.FileID]*job{} // hard links are read once
	for _, p := range packs {
		for i := range p.files {
			f := &p.files[i]
			id, ok := m.look(f, sum)
			if !ok {
				continue
			}
			j := byID[id]
			if j == nil {
				j = &job{path: filepath.Join(m.root, f.path)}
				byID[id] = j
				jobs = append(jobs, j)
			}
			j.md5 = j.md5 || f.want.kind == byMD5
			j.files = append(j.files, f)
		}
	}
	if err := m.run(ctx, jobs); err != nil {
		return err
	}
	for _, j := range jobs {
		m.settle(j, sum)
	}
	return nil
}

// look says whether a file has to be read, and which one it seems to be.
func (m *measurer) look(f *file, sum *Summary) (cordon.FileID, bool) {
	var st unix.Stat_t
	switch err := unix.Lstat(filepath.Join(m.root, f.path), &st); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		f.state = absent
		return cordon.FileID{}, false
	case err != nil:
		f.state = failed
		sum.Unreadable.add(f.path, err.Error())
		return cordon.FileID{}, false
	}
	id := fileid.FromStat(&st)
	if !isCode(m.root, f.path, &st, m.text) {
		f.state = absent
		return id, false
	}
	// Where no digest says what the content should be, its safety is that nobody
	// but root could have put it there.
	if f.want.kind == anything {
		if why := rules.Weak(&st); why != "" {
			f.state = failed
			sum.Rejected.add(f.path, why)
			return id, false
		}
	}
	if f.state == hashed && !f.young && f.fact.id == id {
		return id, false
	}
	if known, ok := m.facts[id]; ok && (known.hasMD5 || f.want.kind != byMD5) {
		f.state, f.young, f.fact = hashed, false, known
		return id, false
	}
	return id, true
}

// settle puts the outcome of a job into its files.
func (m *measurer) settle(j *job, sum *Summary) {
	for _, f := range j.files {
		f.state = failed
		switch {
		case j.err == nil:
			f.state, f.young = hashed, j.sum.Young
			f.fact = fact{id: j.sum.ID, sha256: j.sum.SHA256, md5: j.sum.MD5, hasMD5: j.md5}
		case errors.Is(j.err, fileid.ErrUnstable):
			sum.Unstable.add(f.path, j.err.Error())
		case errors.Is(j.err, unix.ENOENT), errors.Is(j.err, fileid.ErrNotRegular):
			f.state = absent
		default:
			sum.Unreadable.add(f.path, j.err.Error())
		}
	}
	if j.err == nil {
		sum.Hashed++
		sum.HashedBytes += j.sum.ID.Size
	}
}

// run hashes; it returns only the error of the context, the others are in the jobs.
func (m *measurer) run(ctx context.Context, jobs []*job) error {
	next := make(chan *job)
	var wg sync.WaitGroup
	for range min(workers, len(jobs)) {
		wg.Go(func() {
			h := fileid.NewHasher(m.now)
			pause, end := m.pace(ctx)
			defer end()
			h.Pause = pause
			for j := range next {
				j.sum, j.err = h.Sum(ctx, j.path, j.md5)
			}
		})
	}
	for _, j := range jobs {
		if ctx.Err() != nil {
			break
		}
		next <- j
	}
	close(next)
	wg.Wait()
	return ctx.Err()
}
