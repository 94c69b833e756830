package http1

import (
	"slices"
	"testing"
)

var sample = Fields{
	{"Host", "h"}, {"Accept", "a, b ,, c"}, {"accept", "d"}, {"X-Empty", ""}, {"X-Blank", " , \t,"},
}

func TestFieldsAreFoundInAnyCase(t *testing.T) {
	if got := sample.Get("HOST"); got != "h" {
		t.Errorf("Get = %q", got)
	}
	if got := sample.Get("Hos"); got != "" {
		t.Errorf("Get of none = %q", got)
	}
	if !sample.Has("x-empty") || sample.Has("x") {
		t.Error("Has")
	}
	if sample.Has("X-Empt\u0079\u0301") || (Fields{{"k", ""}}).Has("\u212a") {
		t.Error("Has folds beyond ASCII")
	}
}

func TestTokens(t *testing.T) {
	if got := slices.Collect(sample.Tokens("ACCEPT")); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Errorf("Tokens = %q", got)
	}
	for _, none := range []string{"X-Empty", "X-Blank", "Missing"} {
		if got := slices.Collect(sample.Tokens(none)); len(got) != 0 {
			t.Errorf("Tokens of %s = %q", none, got)
		}
	}
	for range sample.Tokens("Accept") {
		break // must not go on after that
	}
	if !sample.HasToken("accept", "D") || sample.HasToken("accept", "x") {
		t.Error("HasToken")
	}
}

func TestStripHopByHop(t *testing.T) {
	tests := []struct {
		name     string
		in, want Fields
	}{
		{"nothing to strip", Fields{{"A", "1"}, {"B", "2"}}, Fields{{"A", "1"}, {"B", "2"}}},
		{"by name", Fields{
			{"Connection", "keep-alive"},
			{"keep-alive", "timeout=5"},
			{"Proxy-Connection", "x"},
			{"TE", "trailers"},
			{"Transfer-Encoding", "chunked"},
			{"Upgrade", "websocket"},
			{"Proxy-Authenticate", "x"},
			{"Proxy-Authorization", "x"},
			{"proxy-authentication-info", "x"},
			{"Content-Length", "5"},
			{"Trailer", "X"},
			{"Authorization", "stays"},
		}, Fields{{"Trailer", "X"}, {"Authorization", "stays"}}},
		{"nominated, before and after", Fields{
			{"x-one", "1"}, {"Connection", "close, X-One"}, {"X-Two", "2"}, {"CONNECTION", " x-two ,"}, {"X-Three", "3"},
		}, Fields{{"X-Three", "3"}}},
		{"many nominated", Fields{
			{"Connection", "a,b,c,d,e,f,g,h,i,j"}, {"j", "1"}, {"a", "1"}, {"k", "1"},
		}, Fields{{"k", "1"}}},
		{"close and keep-alive are no names", Fields{{"Connection", "close"}, {"Close", "1"}}, Fields{{"Close", "1"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := StripHopByHop(slices.Clone(test.in)); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestWithoutAndClone(t *testing.T) {
	c := sample.Clone()
	if got := c.Without("accept"); len(got) != 3 || got.Has("Accept") {
		t.Errorf("Without = %v", got)
	}
	if len(sample) != 5 || sample[1].Name != "Accept" {
		t.Error("Without touched what Clone copied from")
	}
}

func TestIsTokenAndIsValue(t *testing.T) {
	for s, want := range map[string]bool{"GET": true, "x-a.b_c!#$%&'*+^`|~1": true, "": false, "a b": false, "a:": false, "(": false, "\x7f": false, "é": false} {
		if IsToken(s) != want {
			t.Errorf("IsToken(%q) = %v", s, !want)
		}
	}
	for s, want := range map[string]bool{"": true, "a b\tc é": true, "a\r": false, "a\n": false, "\x00": false, "\x7f": false, "\x1f": false} {
		if IsValue(s) != want {
			t.Errorf("IsValue(%q) = %v", s, !want)
		}
	}
}

// TestValuesEightAtATime: every byte in every place is judged as by itself.
func TestValuesEightAtATime(t *testing.T) {
	for length := 1; length < 20; length++ {
		for at := range length {
			for c := range 256 {
				p := []byte("a value with\tsome\x80\xff~ !")[:length]
				p[at] = byte(c)
				if got, want := isValueBytes(p), IsValue(string(p)); got != want {
					t.Fatalf("%q: %t, want %t", p, got, want)
				}
			}
		}
	}
}
