package rawconn

// Asked is how Ask went.
type Asked struct {
	// Stale is what CheckIdle would have said, and nothing was written then.
	Stale error
	// Written bytes of the question, all of them if WriteErr is nil. With an
	// error, nothing was read.
	Written  int
	WriteErr error
	// N bytes were read, or Err says why not.
	N   int
	Err error
}

// Ask is CheckIdle, Write and ReadLazily in one, for a question to a peer from
// which nothing is expected before it has read that. The look that tells whether
// the connection is still good also finds that there is no answer yet, after
// which the poller tells of the first byte of one: a system call less. Unless
// strict, whatever has come unasked is read as the answer.
//
// It counts as a read and as a write.
func (c *Conn) Ask(p []byte, strict bool, room func() []byte, rest func() error) Asked {
	if c.ask.try == nil {
		c.ask.try = c.tryAsk
	}
	c.ask.strict, c.ask.state = strict, unasked
	c.out.p, c.in.room, c.in.rest = p, room, rest
	if c.out.try == nil {
		c.out.try = c.tryWrite
	}
	err := c.raw.Read(c.ask.try)
	state := c.ask.state
	a := Asked{N: c.in.n, Err: c.in.err}
	c.in.room, c.in.rest, c.in.n, c.in.err = nil, nil, 0, nil
	if a.Err == nil {
		a.Err = err
	}
	switch state {
	case unasked: // the connection is closed, or its deadline is over
		c.out.p = nil
		return Asked{Stale: a.Err}
	case halfAsked:
		a.Written, a.WriteErr = c.write(c.out.try) // from where it was
		c.out.p = nil
		if a.WriteErr == nil {
			a.N, a.Err = c.ReadLazily(room, rest)
		}
		return a
	case asked:
	}
	a.Written, a.WriteErr = c.out.n, c.out.err
	c.out.total += int64(c.out.n)
	c.out.p, c.out.n, c.out.err = nil, 0, nil
	return a
}

// asking is how far Ask has come.
type asking struct {
	try    func(fd uintptr) bool
	strict bool
	state  askState
}

type askState int8

const (
	unasked askState = iota
	// halfAsked: the socket takes no more right now.
	halfAsked
	asked
)

func (c *Conn) tryAsk(fd uintptr) bool {
	if c.ask.state == asked {
		return c.tryReadLazily(fd)
	}
	silent := c.isSilent(fd)
	if !silent && c.ask.strict {
		return true
	}
	c.in.err = nil
	if !c.tryWrite(fd) {
		c.ask.state = halfAsked
		return true
	}
	c.ask.state = asked
	switch {
	case c.out.err != nil:
		return true
	case silent:
		return false
	}
	return c.tryReadLazily(fd)
}
