package front

import "stoker/internal/http1"

// Most connections bring one small request after another, each in one piece. These are
// served within one wait of the poller, see rawconn's ReadOn, which spares the look that
// finds nothing before the wait for each:
//
//	await, exchange ──▶ serveOn: waits ──▶ read ──▶ serveRead ──┬─▶ all here: exchange ──▶ waits
//	       ▲                                                    │
//	       └────────────── anything else: what was read stays ──┘
//
// Nobody may read the connection meanwhile, nor wait for that to end, as Close does: so
// nothing is served within that may read more of it, and who ends an idle connection
// aborts it.

// serveOn serves requests as long as each is all there at once, and says whether there
// is more to be awaited. Where the connection is not watched for its end, there is at once.
func (s *session) serveOn() bool {
	c := s.conn
	if c.tls != nil || !c.raw.Watched() || len(s.in.unread()) > 0 {
		return true
	}
	s.over = false
	c.awaitNext() // the poller does not begin with a deadline that is over, as after a long answer
	err := c.raw.ReadOn(s.roomOf, s.serve, s.pause)
	return err == nil && !s.over
}

// serveRead serves what has been read, n bytes more, and says whether that has to go on
// elsewhere, or is over.
func (s *session) serveRead(n int) bool {
	s.in.end += n
	s.conn.heard.Store(true)
	for len(s.in.unread()) > 0 {
		n, err := http1.ParseRequest(s.in.unread(), 0, &s.head)
		if n == 0 || err != nil {
			return true // await finds out the same, and what to do about it
		}
		s.in.start += n
		if s.head.WebSocket || s.head.Length < 0 || s.head.Length > int64(len(s.in.unread())) {
			s.parsed = true
			return true
		}
		if !s.exchange() {
			s.over = true
			return true
		}
	}
	return false
}

// beforeWait is called when nothing has come yet.
func (s *session) beforeWait() error {
	s.in.free()
	s.conn.awaitNext()
	return nil
}
