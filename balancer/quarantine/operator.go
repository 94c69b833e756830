package quarantine

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Add convicts a print by an operator's word.
func (c *Court) Add(k Kind, pool, method, path string, p Prints, ttl time.Duration) (Conviction, error) {
	if p.of(k) == (Print{}) {
		return Conviction{}, fmt.Errorf("the body has none of the fields %s", strings.Join(schemaFields, ", "))
	}
	if ttl <= 0 {
		ttl = c.life()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.convict(k, &Suspect{Prints: p, Method: method, Path: path[:min(len(path), maxPath)]}, []DeathRef{}, pool, ttl, time.Now())
	c.settle()
	c.file.change()
	return *v, nil
}

// Lift ends convictions, by their ids or the beginnings of them, and frees what
// they were for. It returns what was lifted.
func (c *Court) Lift(id string) []Conviction {
	c.refresh()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire(time.Now())
	var lifted []Conviction
	for _, v := range c.convicted {
		if v.Lifted || id == "" || !strings.HasPrefix(v.ID, id) {
			continue
		}
		v.Lifted, v.Changed = true, time.Now()
		c.free(Prints{Request: v.Print, Schema: v.Print})
		lifted = append(lifted, *v)
	}
	c.recount()
	c.file.change()
	sortConvictions(lifted)
	return lifted
}

// List is what is refused now, the newest first.
func (c *Court) List() []Conviction {
	c.refresh()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire(time.Now())
	all := make([]Conviction, 0, len(c.convicted))
	for _, v := range c.convicted {
		if !v.Lifted {
			copied := *v
			copied.Deaths = slices.Clone(v.Deaths)
			all = append(all, copied)
		}
	}
	sortConvictions(all)
	return all
}

func sortConvictions(all []Conviction) {
	slices.SortFunc(all, func(a, b Conviction) int {
		return cmp.Or(b.Since.Compare(a.Since), cmp.Compare(a.ID, b.ID))
	})
}
