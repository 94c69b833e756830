// Package quarantine says which requests have killed engines and shall kill no
// more. It is told of deaths with the requests that were in flight, and of
// requests that were answered; it knows nothing of pools beyond their names, of
// workers, or of how a request is carried.
//
// # Prints
//
// A request is known by two prints, both of the pool it went to:
//
//	request  method, target and body; a JSON body in a form in which the order
//	         of keys, white space, escapes and the spelling of numbers do not count
//	schema   the fields of a JSON body that engines compile into grammars, where
//	         there are any: a prompt varies, and what kills stays the same
//
// # The rule
//
//	event                                then
//	a death                              its suspects are under suspicion, but for those whose print
//	                                     was answered well just before
//	a suspect's print is answered well   suspicion falls, for every instance
//	a second death with the same print   if it is the only print of its kind that both deaths share,
//	                                     it is convicted and both deaths are explained: their
//	                                     other suspects are free. If several are shared nobody is convicted
//	one of several is answered well      who is left alone in both is convicted, unless it is past (see below)
//	a death of an engine that had not    it does not speak against it, once
//	read the request to its end
//	an unexplained death without that    convicting takes a third with it; a conviction of a moment ago is
//	print, within seconds of those       taken back. Whatever kills engines now may be no request
//	time to live                         suspicion and conviction end
//	lift                                 conviction ends, and all suspicion of that print
//
// Suspects are tried one by one where there is time for that. Where many wait the
// next comes beside one that is past: that has got further than it was at the death
// before. A death that those who are past share with one that is not speaks against
// none of them, and is not held against those who are past; they are tried again
// first, and the other waits (Court.Yield), since their answers decide. Who has
// been on several that died is tried with nobody beside it (Standing.Strictly).
//
// A death is opened when the connections of those in flight have broken, each with
// what the kernel says of it: the news of an engine's death may come first. Who may
// have killed one is given to another when the pool has settled, so that engines
// that are killed in one go are gone before.
//
// One death convicts nobody, since engines also die by themselves or by an
// operator's hand. Nor do two deaths at once: what came to the second engine
// before its like had ended on the first has not come again, it was everywhere,
// and when a machine loses two engines together so is everything that is asked often.
//
// What cannot be told from a killer is a request that is unlucky twice: in
// flight on an engine that somebody kills, and then, while it is tried again
// alone on another that has read it, on one that is killed as well.
package quarantine
