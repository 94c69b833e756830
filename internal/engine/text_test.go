package engine

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestStories(t *testing.T) {
	text := func(s story) string { return strings.Join(s.pieces, "") }
	free := compose(chanceFor(1, "hello"), usualTokens, false, nil)
	if free.finish != "stop" || free.tokens != len(free.pieces) || !strings.HasSuffix(text(free), ".") || !utf8.ValidString(text(free)) {
		t.Errorf("%+v", free)
	}
	if again := compose(chanceFor(1, "hello"), usualTokens, false, nil); text(again) != text(free) {
		t.Errorf("told twice: %q, then %q", text(free), text(again))
	}
	if text(compose(chanceFor(2, "hello"), usualTokens, false, nil)) == text(free) || text(compose(chanceFor(1, "bye"), usualTokens, false, nil)) == text(free) {
		t.Error("another seed or prompt makes no difference")
	}
	short := compose(chanceFor(1, "hello"), 3, false, nil)
	if short.finish != "length" || short.tokens != 3 || text(short) != strings.Join(free.pieces[:3], "") {
		t.Errorf("limited to 3: %+v", short)
	}
	long := compose(chanceFor(1, "hello"), 1000, true, nil)
	if long.finish != "length" || long.tokens != 1000 || !strings.HasPrefix(text(long), text(free)) {
		t.Errorf("endless: %d tokens, %s", long.tokens, long.finish)
	}
}

func TestStopSequences(t *testing.T) {
	pieces := []string{"The", " old", " boiler", " sings", "."}
	for name, c := range map[string]struct {
		stops  []string
		text   string
		tokens int
		finish string
	}{
		"none":                   {nil, "The old boiler sings.", 5, "length"},
		"not there":              {[]string{"whistle"}, "The old boiler sings.", 5, "length"},
		"inside a piece":         {[]string{"oil"}, "The old b", 3, "stop"},
		"at a piece's beginning": {[]string{" boiler"}, "The old", 3, "stop"},
		"over two pieces":        {[]string{"ler si"}, "The old boi", 3, "stop"},
		"the earliest":           {[]string{"sings", "old"}, "The ", 2, "stop"},
		"everything":             {[]string{"The"}, "", 1, "stop"},
	} {
		s := story{pieces: append([]string(nil), pieces...), tokens: len(pieces), finish: "length"}
		s.cut(c.stops)
		if text := strings.Join(s.pieces, ""); text != c.text || s.tokens != c.tokens || s.finish != c.finish {
			t.Errorf("%s: %q, %d tokens, %s; want %q, %d, %s", name, text, s.tokens, s.finish, c.text, c.tokens, c.finish)
		}
	}
}
