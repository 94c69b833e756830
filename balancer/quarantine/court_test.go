package quarantine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// r and s are prints of a request, and of a request with a schema.
func r(n byte) Prints    { return Prints{Request: Print{1, n}} }
func s(n, m byte) Prints { return Prints{Request: Print{1, n}, Schema: Print{2, m}} }

// past marks the prints of who had passed.
func past(p Prints) Prints {
	p.Request[15] = 1
	return p
}

// unread marks the prints of whom the engine had not read.
func unread(p Prints) Prints {
	p.Request[15] = 2
	return p
}

// scene is a court at the beginning of time.
type scene struct {
	*Court

	worker int
}

func newScene() *scene { return &scene{Court: New(Options{TTL: time.Hour})} }

// dies lets an engine die that was given these just now, a while after the last.
func (c *scene) dies(suspects ...Prints) []Conviction {
	time.Sleep(10 * time.Second)
	return c.diesNow(nil, suspects...)
}

func (c *scene) diesNow(survivors []Prints, suspects ...Prints) []Conviction {
	began := time.Now()
	time.Sleep(time.Second)
	d := Death{Pool: "p", Worker: string(rune('a' + c.worker)), At: time.Now()}
	c.worker++
	for _, p := range suspects {
		past, unread := p.Request[15] == 1, p.Request[15] == 2
		p.Request[15] = 0
		d.Suspects = append(d.Suspects, Suspect{Prints: p, Method: "POST", Path: "/v1", Began: began, Ended: time.Now(), Past: past, Unread: unread})
	}
	return c.Open(d, survivors)
}

func convicted(all []Conviction) string {
	var words []string
	for _, c := range all {
		words = append(words, string(c.Kind)+" "+c.Print.String()[2:4])
	}
	return strings.Join(words, ", ")
}

func TestRule(t *testing.T) {
	for _, tc := range []struct {
		name string
		run  func(c *scene) []Conviction
		want string
	}{
		{"one death convicts nobody", func(c *scene) []Conviction { return c.dies(r(1)) }, ""},
		{"two with nothing in common", func(c *scene) []Conviction { c.dies(r(1), r(2)); return c.dies(r(3)) }, ""},
		{"the only one in common", func(c *scene) []Conviction { c.dies(r(1), r(2)); return c.dies(r(3), r(2), r(2)) }, "request 02"},
		{"two in common", func(c *scene) []Conviction { c.dies(r(1), r(2)); return c.dies(r(1), r(2)) }, ""},
		{"two in common, then one", func(c *scene) []Conviction { c.dies(r(1), r(2)); c.dies(r(1), r(2)); return c.dies(r(2)) }, "request 02"},
		{"not with the last but with the one before", func(c *scene) []Conviction { c.dies(r(1)); c.dies(r(2)); return c.dies(r(1)) }, "request 01"},
		{"answered between", func(c *scene) []Conviction { c.dies(r(1), r(2)); c.Survived(r(2)); return c.dies(r(2)) }, ""},
		{"another answered between", func(c *scene) []Conviction { c.dies(r(1), r(2)); c.Survived(r(1)); return c.dies(r(1), r(2)) }, "request 02"},
		{"answered before the second", func(c *scene) []Conviction {
			c.dies(r(1), r(2))
			time.Sleep(10 * time.Second)
			return c.diesNow([]Prints{r(2)}, r(2))
		}, ""},
		{"answered before the first", func(c *scene) []Conviction {
			c.diesNow([]Prints{r(2)}, r(2))
			return c.dies(r(2))
		}, ""},
		{"two in common, of which one had passed", func(c *scene) []Conviction { c.dies(r(1), r(2)); return c.dies(past(r(1)), r(2)) }, ""},
		{"of which one had passed and is answered then", func(c *scene) []Conviction {
			c.dies(r(1), r(2))
			c.dies(past(r(1)), r(2))
			c.Survived(r(1))
			return c.List()
		}, "request 02"},
		{"of which the one that had not passed is answered", func(c *scene) []Conviction {
			c.dies(r(1), r(2))
			c.dies(past(r(1)), r(2))
			c.Survived(r(2))
			return c.List()
		}, ""},
		{"of which the one that had not passed is answered, and the other kills again", func(c *scene) []Conviction {
			c.dies(r(1), r(2))
			c.dies(past(r(1)), r(2))
			c.Survived(r(2))
			return c.dies(r(1))
		}, "request 01"},
		{"passed, and nobody was on trial beside it", func(c *scene) []Conviction { c.dies(r(1), r(2)); return c.dies(past(r(1)), past(r(3))) }, "request 01"},
		{"not read by the second", func(c *scene) []Conviction { c.dies(r(1)); return c.dies(unread(r(1))) }, ""},
		{"not read by the first", func(c *scene) []Conviction { c.dies(unread(r(1))); return c.dies(r(1)) }, ""},
		{"not read by the second, and the third dies of it", func(c *scene) []Conviction { c.dies(r(1)); c.dies(unread(r(1))); return c.dies(r(1)) }, "request 01"},
		{"not read by the first, and the third dies of it at once", func(c *scene) []Conviction {
			c.diesNow(nil, unread(r(1)))
			c.diesNow(nil, r(1))
			return c.diesNow(nil, r(1))
		}, "request 01"},
		{"never read whole", func(c *scene) []Conviction {
			c.diesNow(nil, unread(r(1)))
			c.diesNow(nil, unread(r(1)))
			return c.diesNow(nil, unread(r(1)))
		}, "request 01"},
		{"one that had not read it is not the third beside others that die", func(c *scene) []Conviction {
			c.diesNow(nil, r(1))
			c.diesNow(nil, unread(r(1)))
			c.diesNow(nil, r(9))
			return c.diesNow(nil, r(1))
		}, ""},
		{"shared with one that the second had not read", func(c *scene) []Conviction { c.dies(r(1), r(2)); return c.dies(unread(r(1)), r(2)) }, "request 02"},
		{"what is convicted was not read", func(c *scene) []Conviction {
			c.dies(r(1))
			c.dies(r(1))
			c.dies(unread(r(1)), r(2)) // not explained by it
			return c.dies(r(2))
		}, "request 02"},
		{"schema", func(c *scene) []Conviction { c.dies(s(1, 7), r(2)); return c.dies(s(3, 7)) }, "schema 07"},
		{"schema and request", func(c *scene) []Conviction { c.dies(s(1, 7)); return c.dies(s(1, 7)) }, "request 01, schema 07"},
		{"a schema that is answered elsewhere", func(c *scene) []Conviction { c.dies(s(1, 7)); c.Survived(s(2, 7)); return c.dies(s(1, 7)) }, "request 01"},
		{"several schemas", func(c *scene) []Conviction { c.dies(s(1, 7), s(2, 8)); return c.dies(s(3, 7), s(4, 8)) }, ""},
		{"another pool", func(c *scene) []Conviction {
			c.Open(Death{Pool: "q", At: time.Now(), Suspects: []Suspect{{Prints: r(1)}}}, nil)
			return c.dies(r(1))
		}, ""},
		{"too long ago", func(c *scene) []Conviction { c.dies(r(1)); time.Sleep(time.Hour); return c.dies(r(1)) }, ""},
		{"everywhere at once", func(c *scene) []Conviction {
			began := time.Now()
			time.Sleep(time.Second)
			for _, w := range []string{"a", "b"} {
				if found := c.Open(Death{Pool: "p", Worker: w, At: time.Now(), Suspects: []Suspect{{Prints: r(1), Began: began, Ended: time.Now()}}}, nil); found != nil {
					return found
				}
			}
			return nil
		}, ""},
		{"what is convicted explains", func(c *scene) []Conviction {
			c.dies(r(1), r(2))
			c.dies(r(1))        // convicts 1
			c.dies(r(1), r(2))  // was in flight already
			return c.dies(r(2)) // its first
		}, ""},
		{"two killers at a time", func(c *scene) []Conviction {
			c.dies(r(1))
			c.diesNow(nil, r(9))
			c.diesNow(nil, r(1))
			c.diesNow(nil, r(9))
			return c.diesNow(nil, r(1)) // which explains the others
		}, "request 01, request 09"},
		{"engines die anyway", func(c *scene) []Conviction {
			c.dies(r(1))
			c.diesNow(nil, r(9))
			return c.diesNow(nil, r(1))
		}, ""},
		{"engines die anyway, and once more with it", func(c *scene) []Conviction {
			c.dies(r(1))
			c.diesNow(nil, r(8))
			c.diesNow(nil, r(9))
			c.diesNow(nil, r(1))
			return c.diesNow(nil, r(1))
		}, "request 01"},
		{"an engine that dies without any request", func(c *scene) []Conviction {
			c.dies(r(1))
			c.diesNow(nil)
			c.diesNow(nil)
			return c.diesNow(nil, r(1))
		}, "request 01"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if got := convicted(tc.run(newScene())); got != tc.want {
					t.Errorf("convicted: %q, want %q", got, tc.want)
				}
			})
		})
	}
}

// TestConvictionIsTakenBack when an engine dies without it a moment later.
func TestConvictionIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene()
		c.dies(r(1))
		if found := c.diesNow(nil, r(1)); len(found) != 1 {
			t.Fatal("not convicted")
		}
		c.diesNow(nil, r(5))
		if got := c.Judge(r(1)); got.Convicted != nil || got.Suspect != r(1).Request {
			t.Errorf("standing %+v, want a suspect", got)
		}
		if found := c.diesNow(nil, r(1)); convicted(found) != "request 01" {
			t.Errorf("convicted: %q", convicted(found))
		}
	})
}

func TestStanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene()
		if c.Alert() {
			t.Error("alert although nothing has happened")
		}
		c.dies(s(1, 7), r(2))
		for _, tc := range []struct {
			p    Prints
			want Print
		}{{s(1, 7), Print{2, 7}}, {s(3, 7), Print{2, 7}}, {r(2), Print{1, 2}}, {r(3), Print{}}, {Prints{}, Print{}}} {
			if got := c.Judge(tc.p); got.Suspect != tc.want || got.Convicted != nil {
				t.Errorf("%v stands as %+v", tc.p, got)
			}
		}
		c.Survived(r(2))
		c.dies(s(3, 7))
		got := c.Judge(s(9, 7))
		if got.Convicted == nil || got.Convicted.Kind != KindSchema || got.Convicted.Refused != 1 {
			t.Fatalf("standing %+v", got)
		}
		if still := c.Judge(r(1)); still != (Standing{}) {
			t.Errorf("who was in flight too stands as %+v after the conviction", still)
		}
		if got := c.Lift("zz"); got != nil {
			t.Errorf("lifted %v", got)
		}
		if got := c.Lift(c.List()[0].ID[:6]); len(got) != 1 || len(c.List()) != 0 || c.Judge(s(9, 7)) != (Standing{}) || c.Alert() {
			t.Errorf("lifted %v, listed %v", got, c.List())
		}
		if _, err := c.Add(KindSchema, "p", "POST", "/", r(1), 0); err == nil {
			t.Error("a schema was added that is none")
		}
		if _, err := c.Add(KindRequest, "p", "POST", "/", r(8), time.Minute); err != nil || c.Judge(r(8)).Convicted == nil {
			t.Errorf("not added: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if c.Judge(r(8)).Convicted != nil || c.Alert() {
			t.Error("refused after its time")
		}
	})
}

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene()
		done, err := c.Turn(t.Context(), Print{1})
		if err != nil {
			t.Fatal(err)
		}
		if other, err := c.Turn(t.Context(), Print{2}); err != nil {
			t.Error("another print waits")
		} else {
			other()
		}
		limited, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Turn(limited, Print{1}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("two at a time: %v", err)
		}
		time.AfterFunc(time.Second, done)
		if last, err := c.Turn(t.Context(), Print{1}); err != nil {
			t.Error(err)
		} else {
			last()
		}
		if len(c.turns) != 0 {
			t.Errorf("%d turns are remembered", len(c.turns))
		}
	})
}

// TestWhoWaitsIsTold when it is suspected no more, and when it is convicted.
func TestWhoWaitsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene()
		c.dies(r(1), r(2), s(3, 7))
		wait := func(p Prints) context.Context {
			ctx, done := c.WhileSuspected(t.Context(), p)
			t.Cleanup(done)
			return ctx
		}
		one, two, three, stranger := wait(r(1)), wait(r(2)), wait(s(3, 7)), wait(r(9))
		if !errors.Is(context.Cause(stranger), ErrChanged) || one.Err() != nil {
			t.Errorf("at first: %v, %v", context.Cause(stranger), one.Err())
		}
		c.Survived(r(1))
		if !errors.Is(context.Cause(one), ErrChanged) || two.Err() != nil {
			t.Errorf("when one is answered: %v, %v", context.Cause(one), two.Err())
		}
		c.Survived(s(4, 7)) // the schema alone is free
		if three.Err() != nil {
			t.Error("who is suspected for another reason is told")
		}
		c.dies(r(2)) // which frees the third
		if !errors.Is(context.Cause(two), ErrChanged) || !errors.Is(context.Cause(three), ErrChanged) {
			t.Errorf("after the conviction: %v, %v", context.Cause(two), context.Cause(three))
		}
	})
}

// TestWhoIsWaitedFor: who was on trial when its second engine died waits for who
// had passed beside it, and not the other way round.
func TestWhoIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newScene()
		c.dies(r(1), r(2))
		c.dies(past(r(1)), r(2))
		done, err := c.Turn(t.Context(), r(1).Request)
		if err != nil || c.Yield(t.Context(), r(1)) != nil {
			t.Fatal("who has passed waits")
		}
		began := time.Now()
		time.AfterFunc(3*time.Second, func() { c.Survived(r(1)); done() })
		if err := c.Yield(t.Context(), r(2)); err != nil || time.Since(began) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if c.Judge(r(2)).Convicted == nil {
			t.Error("the only one that both deaths share is not convicted")
		}
	})
}

// TestFile: another court knows what this one knew, and both what either learns.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "quarantine.json")
	open := func() *scene {
		c := newScene()
		c.Begin(path)
		return c
	}
	now := time.Now()
	death := func(worker string, at time.Time, p ...Prints) Death {
		d := Death{Pool: "p", Worker: worker, At: at}
		for _, p := range p {
			d.Suspects = append(d.Suspects, Suspect{Prints: p, Began: at, Ended: at})
		}
		return d
	}
	old := open()
	old.Open(death("a", now.Add(-time.Minute), r(1), s(4, 4)), nil)
	old.Open(death("b", now.Add(-30*time.Second), r(1)), nil)
	old.Open(death("c", now, r(3)), nil)
	old.Name("p", "a", now.Add(-time.Minute), "crash-a")
	old.End()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}

	younger, elder := open(), open()
	if got := younger.Judge(r(1)).Convicted; got == nil || got.Deaths[0].Crash != "crash-a" {
		t.Errorf("convicted as %+v", got)
	}
	if got := younger.Judge(r(3)); got.Suspect == (Print{}) {
		t.Errorf("the suspect of the last death stands as %+v", got)
	}
	// Both change; both changes stay.
	elder.Survived(r(3))
	younger.Lift("01")
	elder.End()
	younger.refresh()
	if got := younger.Judge(r(3)); got != (Standing{}) {
		t.Errorf("freed by the elder, it stands as %+v", got)
	}
	younger.End()
	last := open()
	defer last.End()
	if len(last.List()) != 0 {
		t.Errorf("lifted, and again: %+v", last.List())
	}
}

func TestBrokenFile(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "cut": `{"version":1,"deaths":[`, "of another version": `{"version":99}`, "no file of ours": "\x00\xff",
		"with holes": `{"version":1,"deaths":[null],"convictions":[null,{}]}`, "with a short print": `{"version":1,"convictions":[{"print":"12"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "quarantine.json")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			c := newScene()
			c.Begin(path)
			if _, err := c.Add(KindRequest, "p", "POST", "/", r(1), 0); err != nil {
				t.Fatal(err)
			}
			c.End()
			var doc document
			kept, err := os.ReadFile(path)
			if err != nil || json.Unmarshal(kept, &doc) != nil || len(doc.Convictions) != 1 {
				t.Errorf("kept %s, %v", kept, err)
			}
			if aside, err := os.ReadFile(path + ".bad"); name != "with holes" && (err != nil || string(aside) != text) {
				t.Errorf("aside: %q, %v", aside, err)
			}
		})
	}
}
