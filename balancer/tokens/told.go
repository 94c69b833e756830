package tokens

import (
	"bytes"
	"strconv"

	"stoker/internal/jsonfield"
)

// usage as OpenAI's API has it.
type usage struct{ prompt, completion, cached number }

// timings of llama-server.
type timings struct{ cached, prompt, predicted number }

// number is one of those, if it is there.
type number struct {
	n     int
	known bool
}

// told takes over what the engine says: in an object that text begins with. What
// follows is left alone. It is read by hand: encoding/json took a fourteenth of all
// that a small answer cost.
func (c *Count) told(text []byte) {
	if len(text) == 0 {
		return
	}
	var u usage
	var t timings
	isUsage, isTimings, sound := false, false, true
	_ = jsonfield.Walk(text, func(key jsonfield.Key, value []byte) { // whatever was read whole counts
		switch {
		case !isObject(value):
		case key.Is("usage"):
			isUsage, sound = true, u.read(value) && sound
		case key.Is("timings"):
			isTimings, sound = true, t.read(value) && sound
		}
	})
	switch {
	case !sound:
		return
	case isUsage && (u.prompt.n > 0 || u.completion.n > 0):
		c.Prompt, c.Completion, c.Told = u.prompt.n, u.completion.n, true
		if u.cached.known {
			c.Cached = u.cached.n
		}
	case isTimings:
		c.Prompt, c.Completion, c.Told = t.cached.n+t.prompt.n, t.predicted.n, true
		c.Cached = t.cached.n
	}
	c.Prompt, c.Completion = max(c.Prompt, 0), max(c.Completion, 0)
	c.Cached = min(c.Cached, c.Prompt)
}

func isObject(value []byte) bool { return len(value) > 0 && value[0] == '{' }

// read says whether what is known of it is what it should be.
func (u *usage) read(object []byte) bool {
	sound := true
	err := jsonfield.Walk(object, func(key jsonfield.Key, value []byte) {
		switch {
		case key.Is("prompt_tokens"):
			sound = u.prompt.read(value) && sound
		case key.Is("completion_tokens"):
			sound = u.completion.read(value) && sound
		case key.Is("prompt_tokens_details") && isObject(value):
			sound = u.readDetails(value) && sound
		}
	})
	return err == nil && sound
}

func (u *usage) readDetails(object []byte) bool {
	sound := true
	err := jsonfield.Walk(object, func(key jsonfield.Key, value []byte) {
		if key.Is("cached_tokens") {
			sound = u.cached.read(value)
		}
	})
	return err == nil && sound
}

func (t *timings) read(object []byte) bool {
	sound := true
	err := jsonfield.Walk(object, func(key jsonfield.Key, value []byte) {
		switch {
		case key.Is("cache_n"):
			sound = t.cached.read(value) && sound
		case key.Is("prompt_n"):
			sound = t.prompt.read(value) && sound
		case key.Is("predicted_n"):
			sound = t.predicted.read(value) && sound
		}
	})
	return err == nil && sound
}

// read takes a whole number; null is none.
func (n *number) read(value []byte) bool {
	if bytes.Equal(value, null) {
		return true
	}
	var err error
	n.n, err = strconv.Atoi(string(value))
	n.known = err == nil
	return n.known
}

var null = []byte("null")
