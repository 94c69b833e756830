package quarantine

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBounds: whatever comes, no more is kept than its bounds, and all of that can
// be read again. A file of long paths was once larger than what is read.
func TestBounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quarantine.json")
	c := newScene()
	long := "/" + strings.Repeat("x", 4000)
	c.mu.Lock()
	for n := range maxConvictions {
		c.convict(KindRequest, &Suspect{Prints: Prints{Request: Print{3, byte(n), byte(n >> 8)}}}, nil, "p", time.Hour, time.Now())
	}
	c.mu.Unlock()
	for n := range 100 {
		if _, err := c.Add(KindRequest, "p", "POST", long, r(byte(n)), 0); err != nil {
			t.Fatal(err)
		}
	}
	const few, many = 5, 10
	for d := range few + many {
		death := Death{Pool: "p", Worker: "w", At: time.Now()}
		for n := range 2 * maxSuspects {
			mark := Print{4, byte(n), byte(n >> 8), byte(d)}
			death.Suspects = append(death.Suspects, Suspect{Prints: Prints{Request: mark, Schema: mark}, Method: "POST", Path: long})
			if d < few && n >= 10 {
				break // the last ones alone are of many
			}
		}
		c.Open(death, nil)
	}
	const deaths = maxInAll / maxSuspects
	c.Begin(path)
	c.file.change()
	c.End()
	other := newScene()
	other.Begin(path)
	defer other.End()
	for name, c := range map[string]*scene{"first": c, "who reads it": other} {
		if len(c.List()) != maxConvictions || len(c.deaths) != deaths || len(c.deaths[0].Suspects) != maxSuspects {
			t.Errorf("%s: %d convictions, %d deaths with %d suspects", name, len(c.List()), len(c.deaths), len(c.deaths[0].Suspects))
		}
		if c.Judge(r(99)).Convicted == nil {
			t.Errorf("%s: the last conviction is forgotten", name)
		}
		if c.Judge(Prints{Request: Print{4, 1, 1, few + many - 1}}).Suspect == (Print{}) {
			t.Errorf("%s: a suspect of the last death is forgotten", name)
		}
	}
}
