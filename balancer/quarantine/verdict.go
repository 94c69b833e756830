package quarantine

import (
	"slices"
	"time"
)

// The rule of the package comment: what deaths say of the prints that they share.

// judgeAll convicts whoever is to be convicted. A conviction explains deaths that
// had spoken for others, so it goes on until nothing changes. The lock is held.
func (c *Court) judgeAll(pool string, now time.Time) (found []Conviction) {
	for again := true; again; {
		again = false
		for i, d := range c.deaths {
			if d.Explained || d.Pool != pool {
				continue
			}
			var both []*Conviction
			for _, k := range kinds {
				if v := c.verdict(k, i, now); v != nil {
					both = append(both, v)
				}
			}
			for _, v := range both {
				c.explain(v.Kind, v.Print)
				if v.Deaths[len(v.Deaths)-1].Crash != "" { // else Name will say it
					c.announce(v)
				}
				found, again = append(found, *v), true
			}
		}
	}
	return found
}

// verdict convicts the only print of a kind that the ith death shares with an
// earlier one, if there is one. The lock is held.
func (c *Court) verdict(k Kind, i int, now time.Time) *Conviction {
	d := c.deaths[i]
	for _, earlier := range slices.Backward(c.deaths[:i]) {
		if earlier.Explained || earlier.Pool != d.Pool {
			continue
		}
		s := onlyCommon(k, earlier, d)
		if s != nil && !s.Past && c.enough(d, k, s.of(k)) {
			return c.convict(k, s, []DeathRef{earlier.ref(), d.ref()}, d.Pool, c.life(), now)
		}
	}
	return nil
}

// massTime is within what deaths may have one cause that is no request: a driver
// that is reset, or somebody who kills one engine after the other.
const massTime = 5 * time.Second

func (d *Death) has(k Kind, mark Print) bool {
	return slices.ContainsFunc(d.Suspects, func(s Suspect) bool { return s.of(k) == mark })
}

// charges says whether a death speaks against a print.
func (d *Death) charges(k Kind, mark Print) bool {
	return slices.ContainsFunc(d.Suspects, func(s Suspect) bool { return s.of(k) == mark && !s.Unread })
}

func (d *Death) near(at time.Time) bool { return d.At.Sub(at).Abs() < massTime }

// enough says whether there were two deaths with a print, d among them; three
// where engines died at about the same time without it. Not more: killers that
// come together would speak for each other for ever. The lock is held.
func (c *Court) enough(d *Death, k Kind, mark Print) bool {
	with := []*Death{d}
	for _, o := range c.deaths {
		if o != d && o.Pool == d.Pool && o.charges(k, mark) {
			with = append(with, o)
		}
	}
	without := 0
	for _, o := range c.deaths {
		if o.Pool == d.Pool && !o.Explained && !o.has(k, mark) && slices.ContainsFunc(with, func(w *Death) bool { return w.near(o.At) }) {
			without++
		}
	}
	return len(with) >= 2+min(without, 1)
}

// withdraw takes back convictions that were made just before a death without
// what was convicted: whatever kills engines now may have killed those too.
// Their prints are suspected on. The lock is held.
func (c *Court) withdraw(d *Death) {
	for _, v := range c.convicted {
		if v.Lifted || v.Pool != d.Pool || len(v.Deaths) == 0 || !d.near(v.Since) || d.has(v.Kind, v.Print) {
			continue
		}
		last := slices.IndexFunc(c.deaths, func(o *Death) bool { return o.At.Equal(v.Deaths[len(v.Deaths)-1].At) })
		if last >= 0 && c.enough(c.deaths[last], v.Kind, v.Print) {
			continue
		}
		v.Lifted, v.Changed = true, time.Now()
		for _, o := range c.deaths {
			if o.has(v.Kind, v.Print) {
				o.Explained = false
			}
		}
		c.log.Warn("conviction withdrawn: engines die without it too", "quarantine", v.ID, "kind", v.Kind, "pool", v.Pool, "worker", d.Worker)
	}
}

// onlyCommon is the suspect of a death whose print of a kind came again after
// an earlier death; nil if there is none, or more than one.
func onlyCommon(k Kind, earlier, d *Death) *Suspect {
	ended := map[Print]time.Time{}
	for _, s := range earlier.Suspects {
		if s.Unread {
			continue
		}
		if first, known := ended[s.of(k)]; !known || s.Ended.Before(first) {
			ended[s.of(k)] = s.Ended
		}
	}
	delete(ended, Print{})
	var common *Suspect
	for i := range d.Suspects {
		s := &d.Suspects[i]
		over, known := ended[s.of(k)]
		switch {
		case !known || s.Unread || s.Began.Before(over):
		case common != nil && common.of(k) != s.of(k):
			return nil
		default:
			common = s
		}
	}
	return common
}

// heedThePast forgets that suspects of a death were past where they had been
// before, where nobody was beside them who was not. The lock is held.
func (c *Court) heedThePast(d *Death) {
	if slices.ContainsFunc(d.Suspects, func(s Suspect) bool { return !s.Past && c.isSuspected(s.Prints) }) {
		return
	}
	for i := range d.Suspects {
		d.Suspects[i].Past = false
	}
}

// heedUnread forgets that an engine had not read suspects of a death that were on
// one before that had not either: such luck is rare, and there are requests that
// kill before they are read whole. The lock is held.
func (c *Court) heedUnread(d *Death) {
	for i := range d.Suspects {
		s := &d.Suspects[i]
		s.Unread = s.Unread && !slices.ContainsFunc(c.deaths, func(o *Death) bool {
			return slices.ContainsFunc(o.Suspects, func(before Suspect) bool {
				return before.Unread && (before.Request == s.Request || before.Schema == s.Schema && s.Schema != Print{})
			})
		})
	}
}

func (d *Death) ref() DeathRef { return DeathRef{Worker: d.Worker, At: d.At, Crash: d.Crash} }

// convict notes a conviction. The lock is held.
func (c *Court) convict(k Kind, s *Suspect, deaths []DeathRef, pool string, ttl time.Duration, now time.Time) *Conviction {
	mark := s.of(k)
	v := &Conviction{
		ID: mark.String()[:len(mark)], Kind: k, Pool: pool, Print: mark, Method: s.Method, Path: s.Path,
		Deaths: deaths, Since: now, Expires: now.Add(ttl), Changed: now,
	}
	c.convicted[mark] = v
	c.bound()
	c.metrics.convict(v)
	return v
}

// explain frees whoever was suspected together with what is convicted now. The lock is held.
func (c *Court) explain(k Kind, mark Print) {
	for _, d := range c.deaths {
		if d.charges(k, mark) {
			d.Explained = true
		}
	}
}
