package quarantine

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Bounds of what is remembered. The oldest goes first.
const (
	maxDeaths      = 64
	maxSuspects    = 1024 // of one death
	maxInAll       = 8192 // suspects of all deaths
	maxConvictions = 4096
	maxPath        = 256 // bytes of a path, which are for people
)

// Options are what a court is made with.
type Options struct {
	// TTL is how long suspicion and conviction last.
	TTL time.Duration
	// Log is told of convictions; nil: nobody is.
	Log hclog.Logger
	// Metrics count what happens; nil: nobody does.
	Metrics *Metrics
	// Lift is the command that lifts a conviction, but for its id.
	Lift string
}

// Suspect is a request that was in flight on an engine when that died.
type Suspect struct {
	Prints

	// Method and Path are for people; no query, which may hold secrets.
	Method string `json:"method"`
	Path   string `json:"path"`
	// Began is when the engine was given it, Ended when that was over there.
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	// Past: it had got further than its like had been at the death before, and others
	// that are suspected were beside it: it shares this death with them, and is not
	// convicted by it.
	Past bool `json:"past,omitempty"`
	// Unread: the engine had not read it to its end. The first such death of a print
	// is not held against it.
	Unread bool `json:"unread,omitempty"`
}

// Death is the end of an engine that nobody wished.
type Death struct {
	Pool   string    `json:"pool"`
	Worker string    `json:"worker"`
	At     time.Time `json:"at"`
	// Crash is its report's id, empty until that is known.
	Crash    string    `json:"crash,omitempty"`
	Suspects []Suspect `json:"suspects"`
	// Explained: a print of it was convicted, and nobody else is suspected.
	Explained bool `json:"explained,omitempty"`
}

// Conviction is a print that is refused.
type Conviction struct {
	// ID names it: the first half of the print.
	ID    string `json:"id"`
	Kind  Kind   `json:"kind"`
	Pool  string `json:"pool"`
	Print Print  `json:"print"`
	// Method and Path are those of the request that was convicted, or of one with the schema.
	Method string `json:"method"`
	Path   string `json:"path"`
	// Deaths are those that it was convicted for; none where an operator added it.
	Deaths  []DeathRef `json:"deaths"`
	Since   time.Time  `json:"since"`
	Expires time.Time  `json:"expires"`
	// Refused counts the requests refused by this master.
	Refused uint64 `json:"refused"`
	// Lifted: an operator has ended it. Kept so that no older copy revives it.
	Lifted  bool      `json:"lifted,omitempty"`
	Changed time.Time `json:"changed"`
}

// DeathRef names a death.
type DeathRef struct {
	Worker string    `json:"worker"`
	At     time.Time `json:"at"`
	Crash  string    `json:"crash,omitempty"`
}

// Crashes are the ids of its deaths' reports, the newest last.
func (c *Conviction) Crashes() []string {
	var ids []string
	for _, d := range c.Deaths {
		if d.Crash != "" {
			ids = append(ids, d.Crash)
		}
	}
	return ids
}

// Court judges. Its methods may be called by anybody at any time; a nil one
// finds nobody suspect.
type Court struct {
	ttl     atomic.Int64
	log     hclog.Logger
	metrics *Metrics
	lift    string
	file    file

	// alert: somebody is suspected or convicted, so that requests must be looked at.
	alert atomic.Bool

	mu        sync.Mutex
	deaths    []*Death            // by time
	suspected map[Print]suspicion // of all deaths that are not explained
	convicted map[Print]*Conviction
	turns     map[Print]*turn
	waiting   map[*wait]struct{}
	next      time.Time     // when something ends that is known now
	moved     chan struct{} // closed, and replaced, when a trial has ended or suspicion changed
}

// New returns a court that suspects nobody.
func New(o Options) *Court {
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	c := &Court{log: o.Log, metrics: o.Metrics, lift: o.Lift, convicted: map[Print]*Conviction{}, turns: map[Print]*turn{}, waiting: map[*wait]struct{}{}, moved: make(chan struct{})}
	c.SetTTL(o.TTL)
	c.file.init()
	return c
}

// SetTTL changes how long suspicion and convictions to come last.
func (c *Court) SetTTL(d time.Duration) {
	c.ttl.Store(int64(d))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = time.Time{}
}

func (c *Court) life() time.Duration { return time.Duration(c.ttl.Load()) }

// Alert says whether requests must be judged; while it is false Judge has
// nothing to say, and nobody needs to make prints.
func (c *Court) Alert() bool { return c != nil && c.alert.Load() }

// Standing is what is known of a request.
type Standing struct {
	// Convicted is why it is refused; nil: it is not.
	Convicted *Conviction
	// Suspect is the print under suspicion, zero where none is: its instances are
	// tried one at a time (Turn), and apart from others.
	Suspect Print
	// Age is how long the engine had had it when it died, the longest if there were
	// several; a death that was most likely another's does not count.
	Age time.Duration
	// Strictly: it has been on several that died, and is to be tried with nobody beside it.
	Strictly bool
}

// suspicion is what speaks against a print.
type suspicion struct {
	age time.Duration
	// deaths with it; past of them were most likely another's.
	deaths, past int
}

// and adds another death.
func (s suspicion) and(o *Suspect) suspicion {
	if o.Unread {
		return s
	}
	s.deaths++
	if o.Past {
		s.past++
		return s
	}
	s.age = max(s.age, o.Ended.Sub(o.Began))
	return s
}

// isStrong lets one death pass that was another's.
func (s suspicion) isStrong() bool { return s.deaths-min(s.past, 1) > 1 }

// Judge says how a request stands, and counts it if it is refused.
func (c *Court) Judge(p Prints) Standing {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire(time.Now())
	// A schema first: it holds for all its bodies.
	for _, mark := range []Print{p.Schema, p.Request} {
		if found := c.convicted[mark]; c.isConvicted(mark) {
			found.Refused++
			c.metrics.refuse(found)
			copied := *found
			return Standing{Convicted: &copied}
		}
	}
	for _, k := range [...]Kind{KindSchema, KindRequest} {
		mark := p.of(k)
		if by, suspected := c.suspected[mark]; suspected {
			own := c.suspected[p.Request]
			return Standing{Suspect: mark, Age: max(by.age, own.age), Strictly: by.isStrong() || own.isStrong()}
		}
	}
	return Standing{}
}

// Survived says that requests with these prints were answered well: no death
// before was for them. Whoever then is the only one that two deaths share is convicted.
func (c *Court) Survived(p Prints) {
	if !c.Alert() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isSuspected(p) {
		return
	}
	pools := c.free(p)
	for pool, deaths := range pools {
		if deaths > 1 { // they share less now
			c.judgeAll(pool, time.Now())
		}
	}
	if len(pools) > 0 {
		c.recount()
		c.file.change()
	}
}

func (c *Court) isSuspected(p Prints) bool {
	_, request := c.suspected[p.Request]
	_, schema := c.suspected[p.Schema]
	return request || schema
}

// free takes prints from all suspects, and says of how many deaths in which pools.
// The lock is held.
func (c *Court) free(p Prints) (deaths map[string]int) {
	deaths = map[string]int{}
	for _, d := range c.deaths {
		changed := false
		for i := range d.Suspects {
			s := &d.Suspects[i]
			if p.Request != (Print{}) && s.Request == p.Request {
				s.Request, changed = Print{}, true
			}
			if p.Schema != (Print{}) && s.Schema == p.Schema {
				s.Schema, changed = Print{}, true
			}
		}
		if changed {
			deaths[d.Pool]++
			d.Suspects = slices.DeleteFunc(d.Suspects, func(s Suspect) bool { return s.Prints == Prints{} })
		}
	}
	return deaths
}

// Open takes a death in and says who is convicted by it. survivors are the prints
// of requests that were answered well just before, on any engine of the pool.
func (c *Court) Open(d Death, survivors []Prints) []Conviction {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.expire(now)
	d.Suspects = c.suspects(d.Suspects, survivors)
	c.metrics.suspect(d.Pool, len(d.Suspects))
	if len(d.Suspects) == 0 {
		return nil
	}
	death := &d
	c.heedThePast(death)
	c.heedUnread(death)
	// Who was convicted already has done it.
	death.Explained = slices.ContainsFunc(d.Suspects, func(s Suspect) bool {
		return !s.Unread && (c.isConvicted(s.Request) || c.isConvicted(s.Schema))
	})
	c.deaths = append(c.deaths, death)
	found := c.judgeAll(d.Pool, now)
	if !death.Explained {
		c.withdraw(death)
	}
	c.boundDeaths()
	c.recount()
	c.file.change()
	return found
}

// suspects are those of a death whose prints nobody has survived.
func (c *Court) suspects(all []Suspect, survivors []Prints) []Suspect {
	well := make(map[Print]bool, 2*len(survivors))
	for _, s := range survivors {
		well[s.Request], well[s.Schema] = true, true
	}
	kept := make([]Suspect, 0, len(all))
	for _, s := range all {
		if well[s.Request] {
			s.Request = Print{}
		}
		if well[s.Schema] {
			s.Schema = Print{}
		}
		if s.Prints != (Prints{}) && len(kept) < maxSuspects {
			s.Path = s.Path[:min(len(s.Path), maxPath)]
			kept = append(kept, s)
		}
	}
	return kept
}

func (c *Court) isConvicted(p Print) bool {
	found := c.convicted[p]
	return p != (Print{}) && found != nil && !found.Lifted
}

// Name says what the report of a death is called that was opened before.
func (c *Court) Name(pool, worker string, at time.Time, crash string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	same := func(w string, t time.Time) bool { return w == worker && t.Equal(at) }
	for _, d := range c.deaths {
		if d.Pool == pool && same(d.Worker, d.At) {
			d.Crash = crash
		}
	}
	for _, v := range c.convicted {
		for i := range v.Deaths {
			if v.Pool != pool || !same(v.Deaths[i].Worker, v.Deaths[i].At) {
				continue
			}
			v.Deaths[i].Crash, v.Changed = crash, time.Now()
			if i == len(v.Deaths)-1 && !v.Lifted {
				c.announce(v)
			}
		}
	}
	c.file.change()
}

// announce is the one line of a conviction, when both deaths have their names.
func (c *Court) announce(v *Conviction) {
	c.log.Warn("request convicted: it has killed engines and is refused from now on", "quarantine", v.ID, "kind", v.Kind, "pool", v.Pool,
		"method", v.Method, "path", v.Path, "crashes", strings.Join(v.Crashes(), ","), "until", v.Expires.UTC().Format(time.RFC3339),
		"lift", c.lift+" "+v.ID)
}

// Suspicions is how many deaths are not explained, and have suspects.
func (c *Court) Suspicions() (deaths int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.deaths {
		if d.open() {
			deaths++
		}
	}
	return deaths
}

func (d *Death) open() bool { return !d.Explained && len(d.Suspects) > 0 }

// expire forgets what is over. The lock is held.
func (c *Court) expire(now time.Time) {
	if now.Before(c.next) {
		return
	}
	before := len(c.deaths) + len(c.convicted)
	c.deaths = slices.DeleteFunc(c.deaths, func(d *Death) bool { return now.Sub(d.At) > c.life() })
	for mark, v := range c.convicted {
		if now.After(v.Expires) {
			delete(c.convicted, mark)
		}
	}
	if len(c.deaths)+len(c.convicted) != before {
		c.file.change()
	}
	c.recount()
}

// boundDeaths lets the oldest go. The lock is held.
func (c *Court) boundDeaths() {
	suspects := 0
	for i, d := range slices.Backward(c.deaths) {
		suspects += len(d.Suspects)
		if len(c.deaths)-i > maxDeaths || suspects > maxInAll {
			c.deaths = slices.Delete(c.deaths, 0, i+1)
			return
		}
	}
}

// bound lets the oldest convictions go. The lock is held.
func (c *Court) bound() {
	for len(c.convicted) > maxConvictions {
		var oldest *Conviction
		for _, v := range c.convicted {
			if oldest == nil || v.Changed.Before(oldest.Changed) {
				oldest = v
			}
		}
		delete(c.convicted, oldest.Print)
	}
}

// recount says who is suspected, after deaths or their suspects have changed. The lock is held.
func (c *Court) recount() {
	c.suspected = map[Print]suspicion{}
	for _, d := range c.deaths {
		if !d.Explained {
			for i := range d.Suspects {
				s := &d.Suspects[i]
				c.suspected[s.Request] = c.suspected[s.Request].and(s)
				c.suspected[s.Schema] = c.suspected[s.Schema].and(s)
			}
		}
	}
	delete(c.suspected, Print{})
	c.settle()
}

// settle says whether anything is to be judged, and until when that holds, and
// wakes those who wait for a change. The lock is held.
func (c *Court) settle() {
	alert := len(c.suspected) > 0
	held := map[heldLabels]int{}
	next := time.Now().Add(c.life())
	if len(c.deaths) > 0 {
		next = c.deaths[0].At.Add(c.life())
	}
	for _, v := range c.convicted {
		if v.Expires.Before(next) {
			next = v.Expires
		}
		if !v.Lifted {
			alert = true
			held[heldLabels{v.Pool, v.Kind}]++
		}
	}
	c.next = next
	c.alert.Store(alert)
	c.metrics.hold(held)
	c.tellWaiting()
	c.move()
}
