package traffic

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// LogNormal is a length or a pause; the mean is Median·exp(Sigma²/2).
type LogNormal struct {
	Median, Sigma float64
	Max           float64 // more is cut off
}

func (l LogNormal) draw(r *rand.Rand) float64 {
	return min(l.Max, l.Median*math.Exp(l.Sigma*r.NormFloat64()))
}

// Load is what clients ask for.
type Load struct {
	// Conversations begin per second.
	Conversations float64
	// Turns of a conversation, on average; 1: each request stands alone.
	Turns float64
	// Text is what a turn adds to the conversation, Answer what it is answered, in tokens.
	Text, Answer LogNormal
	// Pause in seconds, between an answer and the next turn.
	Pause LogNormal
	// Applications share the conversations, the first of them HotShare of all and
	// the others the rest equally; each has a system prompt of System tokens.
	Applications int
	HotShare     float64
	System       int
}

// NominalToken is the time that clients are thought to read for each token.
const NominalToken = 20 * time.Millisecond

// Request is one turn.
type Request struct {
	At           time.Duration
	Conversation int
	Application  int
	// Key is the conversation's and AppKey the application's name.
	Key, AppKey string
	// System and History are the tokens of Prompt that the application and the
	// conversation have had before.
	System, History, Prompt int
	Answer                  int
}

// Draw makes all requests that come within length, in order.
func (l *Load) Draw(seed uint64, length time.Duration) []Request {
	r := rand.New(rand.NewPCG(seed, 1))
	var all []Request
	begin := 0.0
	for conversation := 0; ; conversation++ {
		begin += r.ExpFloat64() / l.Conversations
		if begin >= length.Seconds() {
			break
		}
		all = append(all, l.conversation(r, conversation, begin, length)...)
	}
	slices.SortStableFunc(all, func(a, b Request) int { return cmp.Compare(a.At, b.At) })
	return all
}

func (l *Load) conversation(r *rand.Rand, number int, at float64, length time.Duration) (turns []Request) {
	application := 0
	if l.Applications > 1 && r.Float64() >= l.HotShare {
		application = 1 + r.IntN(l.Applications-1)
	}
	context := l.System
	for {
		text, answer := 1+int(l.Text.draw(r)), 1+int(l.Answer.draw(r))
		if at < length.Seconds() {
			turns = append(turns, Request{
				At:           time.Duration(at * float64(time.Second)),
				Conversation: number, Application: application,
				Key: "c" + strconv.Itoa(number), AppKey: "a" + strconv.Itoa(application),
				System: l.System, History: context, Prompt: context + text, Answer: answer,
			})
		}
		context += text + answer
		if r.Float64()*l.Turns < 1 {
			return turns
		}
		at += float64(answer)*NominalToken.Seconds() + l.Pause.draw(r)
	}
}
