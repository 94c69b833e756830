package compression

import (
	"strings"

	"stoker/internal/http1"
)

// quality is a q-value in thousandths (RFC 9110 12.4.2); unsaid: it was not named.
type quality int

const unsaid quality = -1

// choose returns the coding that the client likes best, of several the one that
// comes first with us; nil: none, or the plain form better.
func (c *Compressor) choose(fields http1.Fields) *coding {
	identity, others := unsaid, unsaid
	var few [4]quality
	said := few[:len(c.codings)]
	for i := range said {
		said[i] = unsaid
	}
	for element := range fields.Tokens("Accept-Encoding") {
		name, q := readElement(element)
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

// readElement reads "gzip;q=0.5". Whose q-value is none is taken for refused.
func readElement(element string) (name string, q quality) {
	name, rest, weighted := strings.Cut(element, ";")
	name = strings.TrimSpace(name)
	if !weighted {
		return name, 1000
	}
	key, value, _ := strings.Cut(strings.TrimSpace(rest), "=")
	if !strings.EqualFold(strings.TrimSpace(key), "q") {
		return name, 0
	}
	return name, readQuality(strings.TrimSpace(value))
}

// readQuality reads 0 to 1 with up to three decimals; anything else is 0.
func readQuality(s string) quality {
	if s == "" || s[0] != '0' && s[0] != '1' || len(s) > 5 || len(s) > 1 && s[1] != '.' {
		return 0
	}
	q, worth := quality(s[0]-'0')*1000, quality(100)
	for i := 2; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0
		}
		q += quality(s[i]-'0') * worth
		worth /= 10
	}
	if q > 1000 {
		return 0
	}
	return q
}
