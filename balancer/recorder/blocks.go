package recorder

// blockSize is how much memory a block takes, its own fields included.
const blockSize = 2 << 10

// block is a fixed piece of the budget. Blocks are made until the budget is
// used up, then only change hands: recording a chunk allocates nothing.
type block struct {
	next *block
	n    int
	data [blockSize - 16]byte
}

// chain is bytes in blocks, in order.
type chain struct {
	first, last *block
	blocks      int
	size        int64
}

func (c *chain) push(b *block) {
	b.next, b.n = nil, 0
	if c.last == nil {
		c.first = b
	} else {
		c.last.next = b
	}
	c.last = b
	c.blocks++
}

// shift takes the oldest block out, with what is in it.
func (c *chain) shift() *block {
	b := c.first
	c.first = b.next
	if c.first == nil {
		c.last = nil
	}
	c.blocks--
	c.size -= int64(b.n)
	return b
}

// fill appends as much of p as the last block holds.
func (c *chain) fill(p []byte) int {
	if c.last == nil {
		return 0
	}
	n := copy(c.last.data[c.last.n:], p)
	c.last.n += n
	c.size += int64(n)
	return n
}

// bytes is a copy of all.
func (c *chain) bytes() []byte {
	all := make([]byte, 0, c.size)
	for b := c.first; b != nil; b = b.next {
		all = append(all, b.data[:b.n]...)
	}
	return all
}

// limits bound what is kept of one body.
type limits struct{ head, tail int64 }

// source gives blocks, or nil when the budget is used up.
type source interface{ take() *block }

// capture is one body or head as it passes: its beginning, and its end. What
// lies between is counted.
type capture struct {
	head, tail chain
	size       int64 // of all that has passed
	cut        bool  // nothing more fits into head
}

// write keeps what is to be kept of p.
func (c *capture) write(p []byte, l limits, s source) {
	c.size += int64(len(p))
	for !c.cut && len(p) > 0 {
		room := l.head - c.head.size
		n := c.head.fill(p[:min(int64(len(p)), room)])
		p = p[n:]
		if c.head.size == l.head {
			c.cut = true
		} else if len(p) > 0 {
			if b := s.take(); b != nil {
				c.head.push(b)
			} else {
				c.cut = true
			}
		}
	}
	if len(p) > 0 && l.tail > 0 {
		c.writeTail(p, l.tail, s)
	}
}

// writeTail goes round in as many blocks as hold the limit.
func (c *capture) writeTail(p []byte, limit int64, s source) {
	most := int(limit)/len(block{}.data) + 2
	for len(p) > 0 {
		n := c.tail.fill(p)
		if p = p[n:]; len(p) == 0 {
			return
		}
		var b *block
		if c.tail.blocks < most {
			b = s.take()
		}
		if b == nil && c.tail.blocks > 0 {
			b = c.tail.shift()
		}
		if b == nil {
			return // no memory at all: counted in size
		}
		c.tail.push(b)
	}
}

// skip counts bytes that passed unseen. What the tail holds is not the end any more.
func (c *capture) skip(n int64, give func(*block)) {
	if n == 0 {
		return
	}
	c.size += n
	c.cut = true
	for c.tail.first != nil {
		give(c.tail.shift())
	}
}

// parts are copies of what was kept, and how many bytes between them were not.
func (c *capture) parts(l limits) (head, tail []byte, omitted int64) {
	head, tail = c.head.bytes(), c.tail.bytes()
	omitted = c.size - int64(len(head)) - int64(len(tail))
	if over := int64(len(tail)) - l.tail; over > 0 {
		tail, omitted = tail[over:], omitted+over
	}
	return head, tail, omitted
}

// release gives every block back.
func (c *capture) release(give func(*block)) {
	for c.head.first != nil {
		give(c.head.shift())
	}
	for c.tail.first != nil {
		give(c.tail.shift())
	}
	*c = capture{}
}
