package compression

import (
	"strings"

	"stoker/internal/http1"
)

// unsaid is the weight of what was not named.
const unsaid = -1

// choose returns the coding that the client likes best, of several the one that
// comes first with us; nil: none, or the plain form better.
func (c *Compressor) choose(fields http1.Fields) *coding {
	identity, others := unsaid, unsaid
	var few [4]int
	said := few[:len(c.codings)]
	for i := range said {
		said[i] = unsaid
	}
	for element := range fields.Tokens("Accept-Encoding") {
		name, q := http1.Weight(element)
		switch {
		case name == "*":
			others = q
		case strings.EqualFold(name, "identity"):
			identity = q
		}
		for i, coding := range c.codings {
			if coding.is(name) {
				said[i] = q
			}
		}
	}
	var best *coding
	liked := max(identity, 1) // nothing is taken that is refused, or liked less
	for i, coding := range c.codings {
		q := said[i]
		if q == unsaid {
			q = others
		}
		if q > liked || q == liked && best == nil {
			best, liked = coding, q
		}
	}
	return best
}
