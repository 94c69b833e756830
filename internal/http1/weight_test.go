package http1

import "testing"

func TestWeight(t *testing.T) {
	for element, want := range map[string]int{
		"a": 1000, "a;q=1": 1000, "a;q=1.": 1000, "a;q=1.000": 1000, "a;q=0": 0, "a;q=0.": 0, "a;q=0.001": 1, "a;q=0.5": 500,
		"a ; Q = 0.25 ": 250, "a;level=1;q=0.3": 300, "a;q=0.3;ext=1": 300, "a;level=2": 1000,
		"a;q=": 0, "a;q": 0, "a;q=1.001": 0, "a;q=2": 0, "a;q=-1": 0, "a;q=.5": 0, "a;q=0.1234": 0, "a;q=0,5": 0, "a;q=0x5": 0, "a;q=\"1\"": 0,
	} {
		if name, q := Weight(element); name != "a" || q != want {
			t.Errorf("%q: %q, %d, want %d", element, name, q, want)
		}
	}
}
