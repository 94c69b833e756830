package main

import "stoker/upstream"

// Who was given which prompts goes from a generation to the next, so that an
// upgrade does not cost every conversation its cache. It is told after the
// next one serves, which holds up nothing; until then it begins with an empty table. The table's
// size bounds it.

// promptsHandover is how much of it has been told.
type promptsHandover struct {
	pools []*upstream.Pool
	next  int // of the first pool's table
}

// part is what is to be told next, and false when all has been.
func (h *promptsHandover) part() (*promptsMessage, bool) {
	for len(h.pools) > 0 {
		pool := h.pools[0]
		told, next := pool.TellPrompts(h.next)
		if h.next = next; next < 0 {
			h.pools, h.next = h.pools[1:], 0
		}
		if len(told.Entries) > 0 {
			return &promptsMessage{pool.Name(), told}, true
		}
	}
	return nil, false
}

// sendPrompts tells a part, and says whether there may be more.
func (r *reports) sendPrompts() bool {
	part, more := r.prompts.part()
	if !more {
		return false
	}
	if err := r.link.send(message{Prompts: part}); err != nil {
		r.m.log.Debug("the new generation does not listen any more", "error", err)
		r.prompts.pools = nil
		return false
	}
	return true
}

// hearPrompts takes a part over for the members whose engines are those that
// the generation before had: another begins with nothing.
func (e *elder) hearPrompts(told *promptsMessage) {
	pool := e.m.pools.byName()[told.Pool]
	if pool == nil {
		return
	}
	holders := pool.Holders() // before the look at who they are: who is replaced after it is another
	same := map[string]uint32{}
	for _, p := range e.m.sup.Status() {
		if p.Name != told.Pool {
			continue
		}
		for _, w := range p.Workers {
			if w.PID != 0 && e.hello.Serving[w.Name] == w.PID {
				same[w.Name] = holders[w.Name]
			}
		}
		for _, s := range p.Servers {
			same[s.Name] = holders[s.Name]
		}
	}
	pool.HearPrompts(told.Prompts, same)
}
