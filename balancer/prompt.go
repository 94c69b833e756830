package balancer

import (
	"errors"
	"strings"

	"github.com/cespare/xxhash/v2"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/jsonfield"
	"stoker/upstream"
)

// What a request's body says of its affinity is a preference and no more: a
// body that is too large to be held, compressed, or no JSON, goes by the policy
// alone, and the engine says what it thinks of it.

// promptChunk is how many bytes of a prompt an entry of its Prefix stands for:
// some 64 tokens, four of vLLM's blocks. A shorter prompt has no entry, and
// nothing that would be worth finding.
const promptChunk = 256

// The parts of a request that are in front of all that its engine computes: two
// requests that differ in one of them share nothing, whatever their messages.
var promptSeeds = []string{
	"model", "cache_salt", "extra_key", "lora_path", "lora", "lora_adapter", "adapter_id", "lora_request",
	"chat_template", "chat_template_kwargs", "documents", "reasoning_effort",
}

// The parts that make the prompt, in the order in which engines put them. Of the
// last ones, which each stand for all the rest, a request has one.
var (
	promptHeads  = []string{"tools", "functions", "system", "instructions"}
	promptBodies = []string{"messages", "prompt", "input", "inputs", "text", "input_ids"}
)

// look finds what the body says of the affinity that is asked for. Its error is
// one of reading the body.
func (a *attempt) look(f Affinity, seed uint64) (key uint64, prefix upstream.Prefix, err error) {
	doc, err := a.peek()
	if err != nil || doc == nil {
		return 0, nil, err
	}
	if f.kind == affineField {
		return upstream.AffinityKey(fieldOf(doc, f.name)), nil, nil
	}
	a.prefix = appendPrefix(a.prefix[:0], doc, seed)
	return 0, a.prefix, nil
}

// peek returns the body, if that can be held and looked into, else nil.
func (a *attempt) peek() ([]byte, error) {
	h, x := &a.ahead, a.x
	switch {
	case h.buf != nil:
		return h.data(), nil
	case h.held || x.WebSocket || isGRPC(&x.Request) || x.Body == nil || x.Length == 0 || x.Length > a.table.maxAhead || isGRPC(&x.Request) || !isPlainJSON(x.Request.Fields):
		return nil, nil
	}
	err := a.readAhead()
	if errors.Is(err, errAheadTooLarge) || errors.Is(err, errAheadFull) {
		h.giveUp(x)
		return nil, nil
	}
	if err != nil || x.Body == nil {
		return nil, err
	}
	return h.data(), nil
}

// isPlainJSON says whether a body can be looked into by what its head says of it.
func isPlainJSON(fields http1.Fields) bool {
	if coding := first(fields, "Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return false
	}
	kind, _, _ := strings.Cut(first(fields, "Content-Type"), ";")
	return strings.HasSuffix(strings.ToLower(strings.TrimSpace(kind)), "json")
}

// fieldOf is the text of a field of the document, "a.b" being b in a's object;
// empty if there is none, or no string.
func fieldOf(doc []byte, name string) string {
	for {
		outer, inner, nested := strings.Cut(name, ".")
		if !nested {
			value, err := jsonfield.Find(doc, name)
			if err != nil {
				return ""
			}
			return value.Text
		}
		var object []byte
		if jsonfield.Walk(doc, func(key jsonfield.Key, value []byte) {
			if key.Is(outer) {
				object = value
			}
		}) != nil || len(object) == 0 || object[0] != '{' {
			return ""
		}
		doc, name = object, inner
	}
}

// appendPrefix makes the prefix of the prompt that a document holds, none if it
// holds none. By the seed nobody outside knows what it is, and a process that
// goes on in the place of another finds what that one has.
func appendPrefix(p upstream.Prefix, doc []byte, seed uint64) upstream.Prefix {
	var seeds [16][]byte
	var heads [4][]byte
	var body []byte
	if jsonfield.Walk(doc, func(key jsonfield.Key, value []byte) {
		if i := key.Among(promptSeeds); i >= 0 {
			seeds[i] = value
		} else if i := key.Among(promptHeads); i >= 0 {
			heads[i] = value
		} else if key.Among(promptBodies) >= 0 {
			body = value
		}
	}) != nil || body == nil {
		return p
	}
	last := seed
	for i, value := range seeds {
		if value != nil {
			last = link(last+uint64(i), value)
		}
	}
	for i, value := range heads {
		for value != nil && len(p) < upstream.MaxPrefix {
			n := min(promptChunk, len(value))
			last = link(last+uint64(i), value[:n])
			p = append(p, last)
			if value = value[n:]; len(value) == 0 {
				break
			}
		}
	}
	for len(body) >= promptChunk && len(p) < upstream.MaxPrefix {
		last = link(last, body[:promptChunk])
		p = append(p, last)
		body = body[promptChunk:]
	}
	return p
}

// link goes one chunk on: what comes out stands for that and all before it.
func link(before uint64, chunk []byte) uint64 {
	var d xxhash.Digest
	d.ResetWithSeed(before)
	_, _ = d.Write(chunk) // cannot fail
	return d.Sum64()
}

// giveUp lets what was read go before what was not.
func (h *ahead) giveUp(x *exchange.Exchange) {
	h.rest = x.Body
	h.parts[0] = *h.buf
	x.Body = h
}
