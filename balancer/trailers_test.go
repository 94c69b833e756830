package balancer

import (
	"slices"
	"testing"

	"stoker/internal/http1"
)

// What a route sets or removes before the body is not the client's to say after it.
func TestTrailersDoNotUndoARoute(t *testing.T) {
	a := emptyAttempt().(*attempt)
	a.route = &route{request: fieldChanges{remove: []string{"X-User", "X-Secret"}, append: http1.Fields{{Name: "X-User", Value: "alice"}, {Name: "X-Team", Value: "a"}}}}
	said := http1.Fields{{Name: "x-user", Value: "root"}, {Name: "Checksum", Value: "1"}, {Name: "x-secret", Value: "s"}, {Name: "X-TEAM", Value: "b"}}
	a.trailersFrom = func() http1.Fields { return said }
	want := http1.Fields{{Name: "Checksum", Value: "1"}}
	for range 2 { // once by who reads ahead, once by who sends
		if got := a.trailersOf(); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}
