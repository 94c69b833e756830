// Package continuation says what a client has had of a stream of tokens, and
// what it is to get of what another worker sends. It is given events and says
// what becomes of each; how requests are carried, and which worker is asked, it
// does not know.
//
// # A stream
//
//	who speaks   what becomes of an event
//	first        it goes to the client as it is, and is remembered
//	repeating    another worker, of whom the same was asked: what the client has
//	             had is held back, the rest goes on as if the first had said it
//	going        another worker, of whom the rest was asked: all of it goes on so,
//	             and the usage is that of all parts
//
// # What is remembered
//
// For each choice what came through each of its channels, put together: pieces
// differ from worker to worker, what they make together does not.
//
//	member of a choice              is
//	role, id, type                  said once: by the first who says it. The ids of tool calls are
//	                                random, those of the first count
//	another string                  a channel: content, reasoning, the arguments of a tool
//	a list of objects with "index"  a path each: tool calls
//	another list                    a channel of its elements: log probabilities, token ids
//	an object                       looked into
//	finish_reason and its like,     not compared
//	numbers, true and false
//
// Of whole events the first one's id, object, created, model and
// system_fingerprint count. [DONE] goes on only when each choice has its
// finish_reason, which comes only when the worker has said all that was sent.
//
// # What becomes of a stream whose worker has failed it
//
// Decide is the table.
package continuation
