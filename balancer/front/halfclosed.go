package front

import (
	"time"

	"golang.org/x/sys/unix"
)

// A client that has left and one that has only said that it sends no more
// (shutdown for writing, as "nc -N" and many a script do it) look the same: both
// send a FIN. The second waits for its answer, and has a right to it. So a FIN
// is a doubt, which ends thus:
//
//	reset, at any time               gone
//	TLS                              gone: what ends a session ends both directions for most who speak it
//	a tunnel                         gone, but for what it has said: see dig
//	unix socket                      there: of one that has left the kernel says so
//	HTTP/1.1, the answer not begun   asked, by a 100 (Continue), which every client has to skip
//	                                 (RFC 9110 15.2.1): who has left answers by a reset
//	otherwise                        what is written next asks
//	something acknowledged since     there: a kernel acknowledges nothing to a closed socket
//	nothing within doubtTime         gone
//
// Without a question the engine would work on for nobody, which is worse than
// an answer too few.

// doubtTime is how long a client may owe a sign of life. Hang-ups are to be known
// at the engine within a second.
const doubtTime = 500 * time.Millisecond

// InputEnded implements rawconn.Watched: the client has closed its side, or, if it
// is gone, the whole connection.
func (c *conn) InputEnded(gone bool) {
	c.front.endOf(c, gone)
	if c.tls == nil {
		c.raw.InputEnded(gone) // who has read the last bytes may not have seen it
	}
}

func (f *Front) endOf(c *conn, gone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.hungUp && (c.lost || !gone) {
		return // no news: that of our own shutdown
	}
	c.hungUp, c.lost = true, c.lost || gone
	if c.now != nil {
		f.doubt(c.now)
	}
}

// doubt finds out whether the client of q, which has closed its side, is still
// there. f.mu is held.
func (f *Front) doubt(q *flight) {
	c, life := q.conn, q.life
	switch {
	case c.lost, c.tunnel, c.tls != nil:
		q.left()
		return
	case c.raw.LocalAddr().Network() == "unix":
		return
	}
	sent, _, known := c.delivered()
	if !known {
		q.left()
		return
	}
	q.reply.ask()
	q.settle()
	f.goroutine.Add(1)
	q.doubt = time.AfterFunc(doubtTime, func() {
		defer f.goroutine.Done()
		f.mu.Lock()
		defer f.mu.Unlock()
		if c.now == nil || c.now.life != life {
			return
		}
		if _, taken, known := c.delivered(); !known || taken <= sent {
			c.now.left()
		}
	})
}

// settle ends the doubt about a request that is over. f.mu is held. A doubt whose time
// has come in that moment waits for the lock, finds that out, and is waited for by Close.
func (q *flight) settle() {
	if q.doubt != nil && q.doubt.Stop() {
		q.conn.front.goroutine.Done()
	}
	q.doubt = nil
}

// delivered is how much was sent to a TCP client, and how much of it it has
// acknowledged, in all of the connection's life.
func (c *conn) delivered() (sent, taken uint64, known bool) {
	err := c.control(func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		waiting, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		sent, taken, known = info.Bytes_acked+uint64(waiting), info.Bytes_acked, err == nil
	})
	return sent, taken, known && err == nil
}

// ask sends what every client skips, unless something else is on its way.
// Another goroutine than the one that answers calls it. It does not wait.
func (a *answer) ask() {
	if !a.mu.TryLock() {
		return // something is just being written
	}
	defer a.mu.Unlock()
	if a.answered || a.session.Request.Proto == 10 {
		return
	}
	_ = a.session.conn.control(func(fd int) {
		if waiting, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); err == nil && waiting == 0 { // so that it fits whole
			_, _ = unix.SendmsgN(fd, goAheadLine, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		}
	})
}
