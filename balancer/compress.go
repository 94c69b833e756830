package balancer

// compress puts a sink that compresses between a and the client's, if the answer
// whose head is a's is for that, and returns how long it then is. What is
// recorded is the plain form.
func (a *attempt) compress(length int64) int64 {
	a.packed, length = a.smaller.Over(a.x.Sink, &a.x.Request, &a.head, length)
	a.fields = a.head.Fields
	if a.packed != nil {
		a.x.Sink = a.packed
	}
	return length
}

// unpack notes what compressing has done, and lets go of it.
func (a *attempt) unpack() {
	if a.packed == nil {
		return
	}
	r := &a.x.Record
	r.Encoding, r.BytesPlain, r.BytesOut = a.packed.Name(), a.packed.In(), a.packed.Out()
	a.x.Sink = a.packed.Free()
	a.packed = nil
}
