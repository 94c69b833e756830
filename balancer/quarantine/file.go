package quarantine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fileVersion = 1
	// maxFile is more than its bounds let it become.
	maxFile = 64 << 20
	// fileEvery is how often somebody else's changes are looked for: while an older
	// generation of this program finishes its requests, both write the file.
	fileEvery = time.Second
)

// document is what the file holds.
type document struct {
	Version     int           `json:"version"`
	Deaths      []*Death      `json:"deaths"`
	Convictions []*Conviction `json:"convictions"`
}

// file keeps a court's state on disk, off the way of requests: changes are
// written by a goroutine of its own. Empty path: nothing is kept.
type file struct {
	changed chan struct{}
	stop    chan struct{}
	done    chan struct{}

	io     sync.Mutex // held while the file is read or written
	path   string
	seen   os.FileInfo // as it was last read or written
	failed bool        // the last write
}

func (f *file) init() {
	f.changed, f.stop, f.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
}

// change asks for a write soon.
func (f *file) change() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// Begin reads what was kept at path, and keeps it up to date until End. What
// cannot be read is moved aside: a court without memory is better than none.
func (c *Court) Begin(path string) {
	c.file.path = path
	c.refresh()
	go c.keep()
}

// End writes what is not yet written.
func (c *Court) End() {
	close(c.file.stop)
	<-c.file.done
}

func (c *Court) keep() {
	defer close(c.file.done)
	look := time.NewTicker(fileEvery)
	defer look.Stop()
	for {
		select {
		case <-c.file.changed:
			c.save()
		case <-look.C:
			c.refresh()
		case <-c.file.stop:
			select {
			case <-c.file.changed:
				c.save()
			default:
			}
			return
		}
	}
}

// refresh takes in what somebody else has written.
func (c *Court) refresh() {
	f := &c.file
	f.io.Lock()
	defer f.io.Unlock()
	if f.path == "" {
		return
	}
	info, err := os.Stat(f.path)
	if err != nil || f.seen != nil && os.SameFile(info, f.seen) && info.ModTime().Equal(f.seen.ModTime()) {
		return
	}
	c.read()
}

// read takes the file in. f.io is held.
func (c *Court) read() {
	f := &c.file
	doc, info, err := load(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		aside := f.path + ".bad"
		c.log.Error("what was quarantined could not be read: it is moved aside, and what this master knows is kept", "error", err, "aside", aside)
		if err := os.Rename(f.path, aside); err != nil {
			c.log.Error("move it aside", "error", err)
		}
		f.change()
		return
	}
	f.seen = info
	c.mu.Lock()
	defer c.mu.Unlock()
	c.merge(doc)
	c.expire(time.Now())
	c.recount()
}

func load(path string) (*document, os.FileInfo, error) {
	in, err := os.Open(path) //nolint:gosec // below the directory that the configuration names
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return nil, nil, err
	}
	var doc document
	if err := json.NewDecoder(io.LimitReader(in, maxFile)).Decode(&doc); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	if doc.Version != fileVersion {
		return nil, nil, fmt.Errorf("read %s: its version is %d, not %d", path, doc.Version, fileVersion)
	}
	return &doc, info, nil
}

// merge takes in what another knows: of a conviction the latest word, of a
// death what both still suspect. The lock is held.
func (c *Court) merge(doc *document) {
	for _, v := range doc.Convictions {
		if v == nil || v.Print == (Print{}) {
			continue
		}
		if own := c.convicted[v.Print]; own == nil || own.Changed.Before(v.Changed) {
			if own != nil {
				v.Refused = own.Refused
			}
			c.convicted[v.Print] = v
		}
	}
	for _, d := range doc.Deaths {
		if d == nil {
			continue
		}
		at := slices.IndexFunc(c.deaths, func(o *Death) bool { return o.Pool == d.Pool && o.Worker == d.Worker && o.At.Equal(d.At) })
		if at < 0 {
			c.deaths = append(c.deaths, d)
			continue
		}
		own := c.deaths[at]
		own.Explained = own.Explained || d.Explained
		if own.Crash == "" {
			own.Crash = d.Crash
		}
		own.agree(d)
	}
	slices.SortStableFunc(c.deaths, func(a, b *Death) int { return a.At.Compare(b.At) })
	c.bound()
	c.boundDeaths()
}

// agree keeps what another still suspects too.
func (d *Death) agree(other *Death) {
	theirs := map[Print]bool{}
	for _, s := range other.Suspects {
		theirs[s.Request], theirs[s.Schema] = true, true
	}
	for i := range d.Suspects {
		s := &d.Suspects[i]
		if !theirs[s.Request] {
			s.Request = Print{}
		}
		if !theirs[s.Schema] {
			s.Schema = Print{}
		}
	}
	d.Suspects = slices.DeleteFunc(d.Suspects, func(s Suspect) bool { return s.Prints == Prints{} })
}

// save writes the file anew, with what somebody else has written since.
func (c *Court) save() {
	f := &c.file
	f.io.Lock()
	defer f.io.Unlock()
	if f.path == "" {
		return
	}
	err := c.write()
	switch {
	case err != nil && !f.failed:
		c.log.Error("what is quarantined could not be written: a restart would forget it", "error", err)
	case err == nil && f.failed:
		c.log.Info("what is quarantined is written again", "file", f.path)
	}
	f.failed = err != nil
}

// write is the write proper, alone among all processes. f.io is held.
func (c *Court) write() error {
	f := &c.file
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(f.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // which unlocks it
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if info, err := os.Stat(f.path); err == nil && (f.seen == nil || !os.SameFile(info, f.seen)) {
		c.read()
	}
	text, err := json.MarshalIndent(c.snapshot(), "", "  ")
	if err != nil {
		return err
	}
	f.seen, err = replace(f.path, text)
	return err
}

// snapshot is what the file is to hold. It is a copy: requests are judged while it
// is written.
func (c *Court) snapshot() *document {
	c.mu.Lock()
	defer c.mu.Unlock()
	doc := &document{Version: fileVersion, Deaths: make([]*Death, 0, len(c.deaths)), Convictions: make([]*Conviction, 0, len(c.convicted))}
	for _, d := range c.deaths {
		copied := *d
		copied.Suspects = slices.Clone(d.Suspects)
		doc.Deaths = append(doc.Deaths, &copied)
	}
	for _, v := range c.convicted {
		copied := *v
		copied.Deaths = slices.Clone(v.Deaths)
		doc.Convictions = append(doc.Convictions, &copied)
	}
	return doc
}

// replace writes a file so that it is there whole, or as before.
func replace(path string, text []byte) (os.FileInfo, error) {
	temp, err := os.CreateTemp(filepath.Dir(path), ".quarantine-") // 0600
	if err != nil {
		return nil, err
	}
	_, err = temp.Write(text)
	err = errors.Join(err, temp.Sync())
	info, statErr := temp.Stat()
	err = errors.Join(err, statErr, temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
		return nil, err
	}
	return info, nil
}
