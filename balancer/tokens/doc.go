// Package tokens counts what passes of a language model's answer: when its first
// token came, how far apart the others, how many there were, and how many of the
// prompt's the engine had in its cache. It knows the forms of OpenAI's API, which
// all the usual engines speak, and nothing of requests.
//
// A stream's events with data are its tokens, near enough: an engine sends one for
// each, sometimes one for two, and a few without any. Where the engine itself says
// how many there were ("usage", in a stream only if the client has asked for it;
// llama-server's "timings", always) that counts. So does it for an answer that is
// no stream, of which the end alone is kept.
//
// An answer is never held back, and never changed.
package tokens
