package upstream

import "testing"

func TestMove(t *testing.T) {
	p := NewPool("p", PoolOptions{QueueLength: 1, QueueTimeout: 1})
	a, b := p.Add("a", 1), p.Add("b", 1)
	for _, m := range []*Member{a, b} {
		m.Reset("127.0.0.1:1")
		m.SetReady(true)
	}
	asked := map[string]int{}
	on := func(name string, goes bool) func() bool {
		return func() bool { asked[name]++; return goes }
	}
	forget := a.OnMove(on("first", true))
	a.OnMove(on("stays", false))
	a.OnMove(on("gone", true))()
	b.OnMove(on("b", true))
	a.SetReady(false)
	if n := a.Move(); n != 1 || asked["first"] != 1 || asked["stays"] != 1 || asked["gone"]+asked["b"] != 0 {
		t.Errorf("%d go on elsewhere, %v were asked", n, asked)
	}
	forget()
	a.OnMove(on("late", true)) // it had its place before
	if asked["late"] != 1 {
		t.Error("who comes a moment late is not asked")
	}
	b.SetReady(false)
	if n := b.Move(); n != 0 || asked["b"] != 0 {
		t.Error("with nobody else there a request is asked to go")
	}
	a.SetReady(true)
	a.OnMove(on("next", true))
	if asked["next"] != 0 {
		t.Error("a member that is back asks requests to go")
	}
}
