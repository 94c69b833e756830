package upstream

// relayRoom is where bytes are read to: none while nothing comes.
type relayRoom struct {
	small *[smallBuffer]byte
	large *[largeBuffer]byte
	full  bool // the last read filled it
	get   func() []byte
	free  func() error
}

func (r *relayRoom) init() {
	r.get, r.free = r.take, func() error { r.give(); return nil }
}

// take returns a small buffer, or a large one when that was too small.
func (r *relayRoom) take() []byte {
	switch {
	case r.large != nil:
		return r.large[:]
	case r.full:
		r.large = largeBuffers.Get().(*[largeBuffer]byte)
		return r.large[:]
	case r.small == nil:
		r.small = smallBuffers.Get().(*[smallBuffer]byte)
	}
	return r.small[:]
}

// got returns the n bytes that were read.
func (r *relayRoom) got(n int) []byte {
	if r.large != nil {
		return r.large[:n]
	}
	r.full = n == smallBuffer
	return r.small[:n]
}

func (r *relayRoom) give() {
	if r.small != nil {
		smallBuffers.Put(r.small)
	}
	if r.large != nil {
		largeBuffers.Put(r.large)
	}
	r.small, r.large, r.full = nil, nil, false
}
