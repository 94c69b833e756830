package engine

import (
	"hash/fnv"
	"math/rand/v2"
	"strings"
)

// The words. Some are not ASCII, so that whoever cuts a stream into pieces meets
// a character of several bytes.
var (
	subjects = []string{
		"the stoker", "a good fireman", "the old boiler", "each engine", "the night shift", "a careful operator",
		"the furnace", "our locomotive", "the naïve scheduler", "every worker in the pool", "the signalman of Łódź",
	}
	verbs = []string{
		"feeds", "watches", "keeps", "remembers", "balances", "warms", "drains", "follows", "trusts", "relieves",
	}
	objects = []string{
		"the fire", "a steady head of steam", "the longest queue", "one request at a time", "the gauges", "its own log",
		"the coal", "every stream to its end", "the pressure", "a quiet machine", "the whole train",
	}
	endings = []string{
		"without a word", "before the whistle", "— and never twice", "until the line is clear", "at the first sign of smoke",
		"while others sleep", "with great care", "even at full load", "as the timetable says", "from dusk to dawn",
	}
)

// story is an answer: as many pieces as an engine would generate tokens.
type story struct {
	pieces []string
	tokens int    // generated; one more than pieces when a stop sequence began a piece
	finish string // stop or length
}

// compose makes up the answer for a source of chance: some sentences, at most limit
// tokens, and with endless exactly that many.
func compose(chance *rand.Rand, limit int, endless bool, stops []string) story {
	s := story{finish: "length"}
	sentences := 2 + chance.IntN(4)
	for n := 0; endless || n < sentences; n++ {
		for _, piece := range sentence(chance, n == 0) {
			if len(s.pieces) == limit {
				s.tokens = limit
				s.cut(stops)
				return s
			}
			s.pieces = append(s.pieces, piece)
		}
	}
	s.finish, s.tokens = "stop", len(s.pieces)
	s.cut(stops)
	return s
}

// sentence is one sentence in pieces: words with the space before them, and the
// full stop.
func sentence(chance *rand.Rand, first bool) []string {
	words := strings.Fields(strings.Join([]string{pick(chance, subjects), pick(chance, verbs), pick(chance, objects), pick(chance, endings)}, " "))
	words[0] = strings.ToUpper(words[0][:1]) + words[0][1:]
	for i := range words {
		if i > 0 || !first {
			words[i] = " " + words[i]
		}
	}
	return append(words, ".")
}

func pick(chance *rand.Rand, from []string) string { return from[chance.IntN(len(from))] }

// cut ends the story before the first of the stop sequences.
func (s *story) cut(stops []string) {
	text, at := strings.Join(s.pieces, ""), -1
	for _, stop := range stops {
		if i := strings.Index(text, stop); i >= 0 && (at < 0 || i < at) {
			at = i
		}
	}
	if at < 0 {
		return
	}
	s.finish = "stop"
	for i, piece := range s.pieces {
		if len(piece) > at {
			s.tokens = i + 1
			s.pieces = s.pieces[:i]
			if at > 0 {
				s.pieces = append(s.pieces, piece[:at])
			}
			return
		}
		at -= len(piece)
	}
}

// chanceFor is the source of chance that a prompt has with a seed.
func chanceFor(seed uint64, prompt string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(prompt))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}
