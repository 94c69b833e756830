package upstream

// open notes that l carries a tunnel.
func (t *Transport) open(l *link, tunnel *tunnel) {
	t.idle.mu.Lock()
	defer t.idle.mu.Unlock()
	l.tunnel = tunnel
	if t.idle.leaving != nil {
		tunnel.askToLeave(t.idle.leaving)
	}
}

// Dismiss asks the clients of all tunnels to go, by a Close frame of status 1001
// between two frames, and those of later ones as soon as they come, until Welcome.
// Their Do fails with OpCanceled and cause, when they have gone, or been cut
// since they did not. It returns how many there were.
func (t *Transport) Dismiss(cause error) int {
	t.idle.mu.Lock()
	defer t.idle.mu.Unlock()
	t.idle.leaving = cause
	n := 0
	for l := t.idle.busy; l != nil; l = l.next {
		if l.tunnel != nil {
			l.tunnel.askToLeave(cause)
			n++
		}
	}
	return n
}

// Welcome lets tunnels stay again.
func (t *Transport) Welcome() {
	t.idle.mu.Lock()
	defer t.idle.mu.Unlock()
	t.idle.leaving = nil
}

// Tunnels is how many there are.
func (t *Transport) Tunnels() int {
	t.idle.mu.Lock()
	defer t.idle.mu.Unlock()
	n := 0
	for l := t.idle.busy; l != nil; l = l.next {
		if l.tunnel != nil {
			n++
		}
	}
	return n
}
