package upstream

// Move asks the requests on m that can go on elsewhere to do so, now and until m
// is ready again, and returns how many there were. m is to be taken out of the
// pool before. Where nobody else can serve it asks none: to finish here is better
// than to wait for another.
func (m *Member) Move() int {
	p := m.pool
	p.mu.Lock()
	if !p.hasOther(m) {
		p.mu.Unlock()
		return 0
	}
	m.moving = true
	asked := make([]*migrant, 0, len(m.migrants))
	for v := range m.migrants {
		asked = append(asked, v)
	}
	p.mu.Unlock()
	n := 0
	for _, v := range asked {
		if v.leave() {
			n++
		}
	}
	return n
}

// migrant is a request that could go on elsewhere.
type migrant struct{ leave func() bool }

// OnMove names what is called when the request that has a place on m is to go on
// elsewhere, perhaps at once, from any goroutine; it says whether the request
// does. forget is to be called before the place is given back.
func (m *Member) OnMove(leave func() bool) (forget func()) {
	p, v := m.pool, &migrant{leave}
	p.mu.Lock()
	if m.migrants == nil {
		m.migrants = map[*migrant]struct{}{}
	}
	m.migrants[v] = struct{}{}
	moving := m.moving && !m.ready && p.hasOther(m)
	p.mu.Unlock()
	if moving {
		leave()
	}
	return func() {
		p.mu.Lock()
		delete(m.migrants, v)
		p.mu.Unlock()
	}
}
