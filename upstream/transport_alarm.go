package upstream

import "context"

// alarm calls a function when a context ends, until it is stopped. The zero value
// calls none.
type alarm struct {
	// One of these is set, or neither.
	armed  armer
	id     int
	disarm func() bool
}

// armer is a context that has an AfterFunc of its own, which takes no memory, as a
// front's has. Package context would make another context around it, for every request.
type armer interface {
	// Arm is AfterFunc, but for that f is stopped by a number, with Disarm.
	Arm(f func()) (id int)
	Disarm(id int) bool
}

// onEnd is context.AfterFunc. A context that has one of its own is asked directly.
func onEnd(ctx context.Context, f func()) alarm {
	switch own := ctx.(type) {
	case armer:
		return alarm{armed: own, id: own.Arm(f)}
	case interface {
		AfterFunc(f func()) (stop func() bool)
	}:
		return alarm{disarm: own.AfterFunc(f)}
	}
	if ctx.Done() == nil {
		return alarm{}
	}
	return alarm{disarm: context.AfterFunc(ctx, f)}
}

// stop takes the function off, and says whether it will not be called.
func (a *alarm) stop() bool {
	was := *a
	*a = alarm{}
	switch {
	case was.armed != nil:
		return was.armed.Disarm(was.id)
	case was.disarm != nil:
		return was.disarm()
	}
	return true
}
