package recorder

// limits bound what is kept of one body.
type limits struct{ head, tail int64 }

// capture is a body as it passes: its beginning, and its end. What lies between
// is counted.
type capture struct {
	head, tail chain
	size       int64 // of all that has passed
	cut        bool  // nothing more fits into head
}

// write keeps what is to be kept of p.
func (rec *Recording) write(c *capture, p []byte, l limits) {
	c.size += int64(len(p))
	if !c.cut {
		kept := rec.extend(&c.head, p, l.head)
		p = p[kept:]
		c.cut = len(p) > 0 || c.head.size == l.head
	}
	if len(p) > 0 && l.tail > 0 {
		rec.writeTail(&c.tail, p, l.tail)
	}
}

// extend appends what of p fits into limit, and there are blocks for.
func (rec *Recording) extend(c *chain, p []byte, limit int64) (kept int) {
	p = p[:min(int64(len(p)), limit-c.size)]
	a := &rec.recorder.arena
	for kept = c.fill(a, p); kept < len(p); kept += c.fill(a, p[kept:]) {
		b := rec.take((len(p) - kept + blockRoom - 1) / blockRoom)
		if b == 0 {
			break
		}
		c.push(a, b)
	}
	return kept
}

// writeTail goes round in as many blocks as hold the limit.
func (rec *Recording) writeTail(c *chain, p []byte, limit int64) {
	a := &rec.recorder.arena
	most := int(limit)/blockRoom + 2
	if over := len(p) - most*blockRoom; over > 0 {
		p = p[over:] // would be overwritten at once
	}
	for len(p) > 0 {
		p = p[c.fill(a, p):]
		if len(p) == 0 {
			return
		}
		var b block
		if c.blocks < most {
			b = rec.take(min(most-c.blocks, (len(p)+blockRoom-1)/blockRoom))
		}
		if b == 0 {
			b = c.shift(a)
		}
		if b == 0 {
			return // no memory at all: counted in size
		}
		c.push(a, b)
	}
}

// take gives a block: of those that the recording has in reserve, else of the
// recorder's, which is asked for as many as will be needed, and for some more
// where chunks are small: they are seldom the last.
func (rec *Recording) take(need int) block {
	if rec.reserve.first == 0 {
		rec.reserve = rec.recorder.take(max(need, takeLeast))
	}
	return rec.reserve.shift(&rec.recorder.arena)
}

// takeLeast is how many blocks a recording takes at once.
const takeLeast = 4

// skip counts bytes that passed unseen. What the tail holds is not the end any more.
func (rec *Recording) skip(c *capture, n int64) {
	if n == 0 {
		return
	}
	c.size += n
	c.cut = true
	rec.reserve.prepend(&rec.recorder.arena, &c.tail)
}

// parts are copies of what was kept, and how many bytes between them were not.
func (c *capture) parts(a *arena, l limits) (head, tail []byte, omitted int64) {
	head, tail = c.head.bytes(a), c.tail.bytes(a)
	omitted = c.size - int64(len(head)) - int64(len(tail))
	if over := int64(len(tail)) - l.tail; over > 0 {
		tail, omitted = tail[over:], omitted+over
	}
	return head, tail, omitted
}
